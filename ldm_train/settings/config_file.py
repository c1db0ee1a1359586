"""`config=FILE.yaml`: a file of differences, as the words that it stands for, before those of the command line.

A setting is written as in a run's `config.yaml` or in an experiment: `max_steps: 500`, `optimizer: {lr: 1.0e-3}`; an option
of a group by its name, `schedule: cosine`, or in a defaults list, `- override /schedule: cosine`.
"""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from ldm_train.settings.foreign_names import suggest_option
from ldm_train.settings.quoting import reads_text
from ldm_train.settings.safe_yaml import read_written
from ldm_train.settings.schema.commands import SCHEMAS, kind_of
from ldm_train.settings.schema.kinds import takes_container, takes_text
from ldm_train.settings.schema.options import TARGET, list_part_groups
from ldm_train.settings.schema.typed_values import expand_home
from ldm_train.settings.shipped import (
    CONFIG_PATH,
    ConfigError,
    groups,
    groups_of,
    key_of,
    own_option,
    read,
    shipped,
    shipped_groups,
)
from ldm_train.settings.trust import TRUST

CONFIG = "config"
COMMAND_LINE = (TRUST, CONFIG, CONFIG_PATH, "hydra", "objective")  # what no file may set
SERVERS = ("tracking_uri", "space_id")  # settings of loggers that name where everything is sent


def file_words(verb: str, path: str, *, chosen: Collection[str], targets: dict[str, str]) -> list[str]:
    """The words that a file of settings stands for: options of groups first.

    Args:
        targets: the constructor of each group.
        chosen: groups of which the command line chooses an option: the file's own, with its settings, is passed over.

    Raises:
        ConfigError: there is no such file, or it names an option that there is not.
    """
    path = expand_home(path)
    if not Path(path).is_file():
        raise ConfigError(f"{CONFIG}={path} is not there; it takes a YAML file of settings, such as a run's config.yaml")
    read_values = OmegaConf.to_container(read(Path(path)))
    assert isinstance(read_values, dict)
    targets = targets | {str(key): found for key, value in read_values.items() if (found := _target(key, value))}
    config = _keep_texts(verb, targets, "", read_values, read_written(Path(path)))
    assert isinstance(config, dict)
    _refuse_roots(config, path)
    words = list_words(verb, config, chosen=chosen, origin=f" in {path}")
    _check_logger(words, path)
    return words


def list_words(verb: str, config: Mapping[str, object], *, chosen: Collection[str] = (), origin: str = "") -> list[str]:
    """Return the words that settings stand for: options of groups first.

    Args:
        config: plain values by the names of settings, full names among them.
        chosen: groups that are passed over, with their settings.
        origin: where the settings are from, for messages.

    Raises:
        ConfigError: they name an option that there is not.
    """
    entries, settings = config.get("defaults"), list[str]()
    choices = dict(_default(entry, origin) for entry in entries if entry) if isinstance(entries, list) else {}
    for key, value in ((str(key), value) for key, value in config.items() if key != "defaults"):
        if key in groups_of(verb) and not isinstance(value, dict):
            choices[key] = value
        elif key in groups_of(verb) and isinstance(value, dict) and "_target_" in value:
            nearest_option, own = _constructor(verb, key, value)
            choices |= {key: nearest_option} if nearest_option else {}
            settings += [] if key in chosen else own
        else:
            settings += [] if key in chosen and key in choices else list(_settings(key, value))
    for group, option in choices.items():
        known = groups()[group]
        if option is not None and option not in known:
            message = f"{group}: {option}{origin} is no option; there are: {', '.join(known)}"
            raise ConfigError(message + suggest_option(group, str(option), known))
    words = [
        f"~{group}" if option is None else f"{group}={option}" for group, option in choices.items() if group not in chosen
    ]
    return words + settings


def find_own_files(verb: str, words: Sequence[str]) -> list[str]:
    """Return the files of a user's own options that set what others read, such as experiments, which words choose."""
    return [str(path) for word in words if (path := _own_file(word)) and _sets_others(verb, key_of(word))]


def expand_own_options(verb: str, words: Sequence[str]) -> list[str]:
    """Return words with a user's own options as the settings that they stand for."""
    expanded = []
    for word in words:
        group, path = key_of(word), _own_file(word)
        if path is None:
            expanded.append(word)
        elif not _sets_others(verb, group):
            found = OmegaConf.to_container(read(path))
            assert isinstance(found, dict)
            node = {str(key): value for key, value in found.items()}
            option, settings = _constructor(verb, group, node) if TARGET in node else (None, list(_settings(group, node)))
            _check_logger(settings, path)
            expanded += [*([] if option is None else [f"{group}={option}"]), *settings]
    return expanded


def _own_file(word: str) -> Path | None:
    group, _, option = word.lstrip("+").partition("=")
    return own_option(group, option) if group in groups() else None


def _sets_others(verb: str, group: str) -> bool:
    return group not in list_part_groups(SCHEMAS[verb])


def _target(group: object, value: object) -> str | None:
    """Return the constructor that a file chooses for a group; None if it is no group, or chooses none."""
    if isinstance(value, str) and value in groups().get(str(group), []):
        value = shipped(f"{group}/{value}")
    return str(value["_target_"]) if isinstance(value, dict | DictConfig) and "_target_" in value else None


def _keep_texts(verb: str, targets: dict[str, str], name: str, value: object, written: object) -> object:
    """Return a setting of a file; a text that YAML reads as a number or a switch, such as 1e3 or no, is as it is written."""
    found = kind_of(verb, name, targets)
    if isinstance(value, dict) and isinstance(written, dict):
        if found is not None and reads_text(found[0]) and takes_container(found[0], dict):
            return write_mapping(dict(zip(written, value.values(), strict=True)))
        names = {key: f"{name}.{key}".lstrip(".") for key in value}
        return {key: _keep_texts(verb, targets, names[key], one, written.get(str(key))) for key, one in value.items()}
    if isinstance(value, list) and isinstance(written, list):
        return [_keep_texts(verb, targets, name, *pair) for pair in zip(value, written, strict=True)]
    if not isinstance(value, bool | int | float) or not isinstance(written, str):
        return value
    return written if found is not None and takes_text(found[0]) else value


def _refuse_roots(config: Mapping[str, object], path: str) -> None:
    """Raise if a file has a setting that only the command line may choose, by itself or as the start of a full name."""
    for key in config:
        if re.split(r"[./@]", str(key).lstrip("+~"), maxsplit=1)[0] in COMMAND_LINE:
            raise ConfigError(
                f"{key} in {path} is refused: trust, {CONFIG_PATH}, objective and Hydra's plugins are chosen on the "
                "command line only"
            )


def _check_logger(words: Sequence[str], path: str | Path) -> None:
    """Raise if a file gives a logger what names programs and servers, as settings may that its options do not list."""
    listed = {str(key) for option in groups()["logger"] for key in shipped(f"logger/{option}")}
    for key, value in sorted((key_of(word), word.partition("=")[2]) for word in words if not word.startswith("~")):
        group, _, name = key.partition(".")
        server = name in SERVERS and value != "null"
        if group == "logger" and name and (server or name not in listed):
            raise ConfigError(f"{key} in {path} is accepted on the command line only: {'+' * (not server)}{key}=…")


def _default(entry: object, origin: str) -> tuple[str, object]:
    """A group and its option, of an entry `override /group: option`."""
    if isinstance(entry, dict) and len(entry) == 1:
        [(words, option)] = entry.items()
        group = str(words).split()[-1].lstrip("/")
        if group in groups():
            return group, option
    raise ConfigError(f"the entry {entry} of defaults{origin} is not `override /GROUP: OPTION`")


def _settings(key: str, value: object) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, nested in value.items():
            yield from _settings(f"{key}.{name}", nested)
    else:
        yield f"++{key}={text(value)}"  # whether there is such a setting is asked of the whole, which knows the file


def shortest_words(group: str, node: Mapping[str, object]) -> list[str]:
    """A group's whole settings as an option and what differs from it, as a shell takes them.

    Args:
        node: plain values, with the constructor's name.
    """
    name = nearest_option(group, node)
    option = shipped(f"{group}/{name}") if name else {}
    known = {*option.keys()}  # also of values that must be given, which `in` does not find
    given = {
        f"{'' if key in known else '++'}{group}.{key}": value for key, value in node.items() if option.get(key) != value
    }
    plain = [f"{key}={value if isinstance(value, str) else text(value)}" for key, value in given.items()]
    return [shlex.quote(word) for word in ([f"{group}={name}"] if name else []) + plain]


def _constructor(verb: str, group: str, node: dict[str, object]) -> tuple[str | None, list[str]]:
    """A group's whole settings, with the constructor's name: the nearest option, and what differs from it."""
    name = nearest_option(group, node)
    before = shipped(f"{group}/{name}").keys() if name else _default_settings(verb, group)
    gone = sorted((before | shipped(verb).get(group, {}).keys()) - node.keys())
    # Hydra deletes nothing that is null.
    return name, [*_settings(group, node), *(word.format(f"{group}.{key}") for key in gone for word in ("++{}=0", "~{}"))]


def nearest_option(group: str, node: Mapping[str, object]) -> str | None:
    """The shipped option of the same constructor that differs in the fewest settings."""
    options = {name: shipped(f"{group}/{name}") for name in shipped_groups()[group]}
    unlike = {
        name: sum(option.get(key) != value for key, value in node.items()) + len(option.keys() - node.keys())
        for name, option in options.items()
        if option.get("_target_") == node["_target_"]
    }
    return min(unlike, key=lambda name: unlike[name], default=None)


def _default_settings(verb: str, group: str) -> set[str]:
    """Return the names of the settings of the command's default option."""
    entries = [entry for entry in shipped(verb).defaults if isinstance(entry, DictConfig) and group in entry]
    return {str(key) for entry in entries for key in shipped(f"{group}/{entry[group]}")}


def write_mapping(values: Mapping[str, object]) -> str:
    """Return a mapping as the text that a setting for paths with values reads."""
    return "{" + ",".join(f"{text(key)}:{text(value)}" for key, value in values.items()) + "}"


def text(value: object) -> str:
    """A value as Hydra's grammar reads it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{text(nested)}" for key, nested in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text, value)) + "]"
    if isinstance(value, str):
        return QuotedString(value, Quote.double).with_quotes()
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
