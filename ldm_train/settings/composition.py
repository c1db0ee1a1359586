"""Configs: composed by Hydra from `conf/`, and checked; `constructors` turns them into objects."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm_train.settings.config_file import CONFIG, expand_own_options, file_words, find_own_files, list_words
from ldm_train.settings.constructors import build
from ldm_train.settings.explained_training import split_training, words_of_training
from ldm_train.settings.fine_tuning import words_of_fine_tuning
from ldm_train.settings.foreign_names import suggest_option
from ldm_train.settings.hydra_state import cleared_hydra
from ldm_train.settings.list_members import refuse_list_members
from ldm_train.settings.quoting import quote_text, readable
from ldm_train.settings.replaced_options import (
    allow_new_settings,
    complete_own,
    drop_replaced,
    find_replaced,
    find_targets,
    name_metrics,
)
from ldm_train.settings.run_options import words_of_run
from ldm_train.settings.schema.commands import SCHEMAS, default_values, kind_of, mappings_of
from ldm_train.settings.schema.kinds import describe
from ldm_train.settings.schema.options import PASSED, READ_BY_RUN, TARGET, CommandSettings, Part
from ldm_train.settings.schema.typed_values import unquote
from ldm_train.settings.shipped import (
    CONFIG_PATH,
    ConfigError,
    dotted,
    folder,
    groups,
    groups_of,
    key_of,
    none_chosen_by,
    read,
    refuse_unknown_options,
    shipped,
    shipped_groups,
)
from ldm_train.settings.signatures import signature
from ldm_train.settings.strict import SET_BY_THE_RUN, TRAINER, NameCheck, describe_set_by_the_run
from ldm_train.settings.suggestions import suggest_setting
from ldm_train.settings.trust import is_trust
from ldm_train.settings.validation import not_accepted, validate_settings
from ldm_train.util.processes import in_terminal

__all__ = ["ConfigError", "build", "compose", "folder", "groups", "words"]

Settings = TypeVar("Settings", bound=CommandSettings)
NO_VALUES: Mapping[str, object] = MappingProxyType({})


def compose_as(kind: type[Settings], overrides: list[str], passed: Mapping[str, object] = NO_VALUES) -> Settings:
    """Return `compose` for the command that has these settings."""
    settings = compose(next(verb for verb, schema in SCHEMAS.items() if schema is kind), overrides, passed)
    assert isinstance(settings, kind)
    return settings


def compose(verb: str, overrides: list[str], passed: Mapping[str, object] = NO_VALUES) -> CommandSettings:
    """Return the settings of a command with these overrides, interpolations resolved.

    Args:
        passed: settings as plain values, after those of the files that the overrides name.

    Raises:
        ConfigError: an unknown key, group or option (with the nearest name), a wrong type, or a missing value.
    """
    overrides, passed, training = split_training(verb, overrides, passed)
    typed = [word for word in overrides if key_of(word) not in (CONFIG, CONFIG_PATH) and not is_trust(word)]
    refuse_unknown_options(verb, typed)
    typed = last_words(typed)
    targets = targets_of(verb, typed) | find_targets(verb, typed)
    own = [readable(quote_text(verb, word, targets)) for word in typed]
    own = [f"~{key_of(word)}" if word == f"{key_of(word)}=null" and key_of(word) in groups() else word for word in own]
    own = [part for word in own for part in _deletable(word)]
    files = [unquote(word.partition("=")[2]) for word in overrides if key_of(word) == CONFIG]
    files = find_own_files(verb, own) + files
    chosen = {key_of(word) for word in own} | passed.keys()
    given = [word for file in files for word in file_words(verb, file, chosen=chosen, targets=targets)]
    given += [*list_words(verb, passed), *own, *words_of_training(training, compose)]
    given = expand_own_options(verb, [*words_of_run(verb, given), *words_of_fine_tuning(verb, given), *given])
    replaced = find_replaced(verb, given)
    given = name_metrics(allow_new_settings(given, {**replaced, **dict.fromkeys(mappings_of(verb))}))
    try:
        config = _hydra(verb, given)
        drop_replaced(verb, config, replaced)
        if missing := OmegaConf.missing_keys(config):
            missing |= {"prompts"} if verb == "sample" and config.get("prompts") is None and not in_terminal() else set()
            names = sorted(f"{key}=…" for key in missing)
            raise ConfigError(f"{verb} needs {', '.join(names)} (see `ldm-train {verb} --help`)")
        OmegaConf.resolve(config)
        refuse_interpolations(OmegaConf.to_container(config, resolve=False))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(verb, given, error)) from error
    except (TypeError, ValueError) as error:  # OmegaConf's, where a list has no member of this name
        refuse_list_members(verb, given, _with_options(verb, given), targets_of(verb, given), error)
        raise
    values = plain(config)
    _complete_network(values)
    complete_own(values)
    options = tuple(word for word in _choices(verb, given) if key_of(word) != "experiment")
    origin = Origins([*own, *passed], files, given)
    NameCheck(verb, origin, plain(defaults(verb, options), resolve=False))(values)
    return validate_settings(verb, values, origin)


def _complete_network(values: dict[str, Any]) -> None:
    """Add what is read of every network, whoever made it, if a mapping without it replaced an option."""
    network = values.get("network")
    if isinstance(network, dict) and TARGET in network:
        option = shipped("network/unet_small")
        values["network"] = network | {key: option[key] for key in READ_BY_RUN["network"] if key not in network}


def targets_of(verb: str, words: list[str]) -> dict[str, str]:
    """Return the constructor of each group of a command, by the options that words choose, or else the default ones."""
    entries = [entry for entry in shipped(verb).defaults if isinstance(entry, DictConfig)]
    options = {str(key).removeprefix("optional "): value for entry in entries for key, value in entry.items()}
    options |= {key_of(word): word.partition("=")[2] for word in words if key_of(word) in groups_of(verb)}
    known = groups()
    names = {group: f"{group}/{option}" for group, option in options.items() if option in known.get(group, ())}
    return {group: str(shipped(name).get(TARGET, "")) for group, name in names.items()}


def last_words(words: list[str]) -> list[str]:
    """Return the words without those that give a setting a value which a later word gives another one.

    Of files of settings and of trusted packages there may be several.
    """
    last = {word.partition("=")[0]: number for number, word in enumerate(words)}
    return [
        word
        for number, word in enumerate(words)
        if "=" not in word
        or key_of(word) in (CONFIG, CONFIG_PATH)
        or is_trust(word)
        or last[word.partition("=")[0]] == number
    ]


def _choices(verb: str, words: list[str]) -> tuple[str, ...]:
    """Those of the words that choose an option of a group."""
    return tuple(word for word in words if key_of(word) in groups_of(verb))


def refuse_interpolations(value: object) -> None:
    """Raise for a text with `${` that was to be kept as it is: written to a run's config, it would be an interpolation.

    Raises:
        ConfigError: it gives the text.
    """
    if isinstance(value, str) and "${" in value:
        raise ConfigError(f"{value!r} holds the characters ${{, which a config cannot keep; leave them out")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        refuse_interpolations(item)


class Origins:
    """Finds the file that a setting's value came from, for messages about it."""

    def __init__(self, words: list[str], files: list[str], given: list[str]) -> None:
        self.words = words
        experiments = [word.partition("=")[2] for word in given if key_of(word) == "experiment"]
        self.files = {file: Path(file) for file in reversed(files)} | {
            f"experiment={name}": folder() / "experiment" / f"{name}.yaml" for name in experiments if name != "null"
        }

    def __call__(self, name: str) -> str:
        if not any(f"{name}.".startswith(f"{key_of(word)}.") for word in self.words):
            for name_of_file, path in self.files.items():
                if name in dotted(read(path)):
                    return f" in {name_of_file}"
        return ""


def _deletable(word: str) -> list[str]:
    """A word, after one that gives a value to the option's setting that it deletes: Hydra deletes nothing that is null."""
    key = key_of(word)
    return [f"{key}=0", word] if word == f"~{key}" and key.partition(".")[0] in groups() and "." in key else [word]


@cache
def defaults(verb: str, options: tuple[str, ...] = ()) -> DictConfig:
    """Return a command's config as it is shipped, with these options of groups; not to be changed."""
    return _hydra(verb, list(options))


def _hydra(verb: str, overrides: list[str]) -> DictConfig:
    with cleared_hydra():
        ConfigStore.instance().store(name=f"{verb}_settings", node=default_values(verb))
        with initialize_config_dir(str(folder()), version_base="1.3"):
            return hydra_compose(verb, overrides)


def words(group: str, chosen: Part | None) -> list[str]:
    """The command line that makes a group's part of a config: the nearest option, and what differs from it."""
    if chosen is None:
        return []
    part = chosen.as_plain()
    options = {name: shipped(f"{group}/{name}") for name in shipped_groups()[group]}
    differing = {
        name: {key: value for key, value in part.items() if key not in option or option[key] != value}
        for name, option in ((n, OmegaConf.to_container(o)) for n, o in options.items())
        if isinstance(option, dict) and option.get("_target_") == part["_target_"]
    }
    if not differing:  # own code, of which there is no option
        return [f"{group}.{key}={value}" for key, value in part.items()]
    name = min(differing, key=lambda name: len(differing[name]))
    return [f"{group}={name}", *(f"{group}.{key}={value}" for key, value in differing[name].items())]


def _explain(verb: str, overrides: list[str], error: Exception) -> str:
    """The first override that is not known, with the nearest name; else Hydra's own words."""
    parser = OverridesParser.create()
    for word in overrides:
        try:
            parser.parse_override(word)
        except HydraException:
            return f"{word!r} cannot be read as key=value; quote lists and texts as in 'prompts=[\"a fox\"]'"
        key, _, value = word.lstrip("+~").partition("=")
        if key in groups() and key not in groups_of(verb):
            return _unknown(verb, key, dotted(_with_options(verb, overrides)))
        unfound = isinstance(error, HydraException) and "Could not find" in str(error)
        if unfound and key in groups() and value not in groups()[key]:
            options = groups()[key]
            return f"{key}={value} is no option; there are: {', '.join(options)}{suggest_option(key, value, options)}"
    chosen = _with_options(verb, overrides)
    plain = dotted(chosen)
    for word in overrides:
        key = key_of(word)
        parent = key.rpartition(".")[0]
        if key not in plain and key not in groups() and parent.split(".")[0] not in groups():
            return _unknown(verb, key, plain)
    known = re.search(r"Key '(\w+)' is not in struct\s+full_key: ([\w.]+)", f"{error} {error.__cause__}")
    if known and known[2] in groups_of(verb):
        return none_chosen_by(overrides, known[2])
    if known and (hint := _unlisted(chosen, known[2])):
        return hint
    if known:
        return _unknown(verb, known[2], plain)
    if unset := re.search(r"Interpolation key '([^']*)' not found", f"{error} {error.__cause__}"):
        word = next((word for word in overrides if f"${{{unset[1]}}}" in word), f"${{{unset[1]}}}")
        return f"{word}: {unset[1]} is no setting; a shell puts in a variable's value outside of single quotes only"
    merged = re.search(r"Cannot merge .*\s+full_key: ([\w.]+)", f"{error} {error.__cause__}")
    refused = next((word for word in overrides if merged and key_of(word) == merged[1]), None)
    if refused is not None and (found := kind_of(verb, key_of(refused), targets_of(verb, overrides))) is not None:
        return not_accepted(key_of(refused), refused.partition("=")[2], describe(*found))
    return str(error.__cause__ or error).strip()


def _unknown(verb: str, name: str, known: list[str]) -> str:
    hint = suggest_setting(verb, name, [*known, *groups_of(verb)])
    return f"unknown setting {name!r} of {verb}{hint} (`ldm-train {verb} --help` lists them)"


def _with_options(verb: str, overrides: list[str]) -> DictConfig:
    """A verb's config with the options that words choose; where these cannot be, without."""
    try:
        return defaults(verb, _choices(verb, overrides))
    except (HydraException, OmegaConfBaseException):
        return defaults(verb)


def _unlisted(chosen: DictConfig, key: str) -> str | None:
    """What to answer where a constructor takes what its group's option does not list."""
    group, _, name = key.partition(".")
    if group == "trainer" and name in SET_BY_THE_RUN:
        return describe_set_by_the_run(name)
    node = chosen.get(group)
    target = TRAINER if group == "trainer" else str(node.get("_target_", "")) if isinstance(node, DictConfig) else ""
    found = signature(target)
    if found is None or name not in found.kinds.keys() - PASSED.get(group, set()):
        return None
    return f"{key} is not listed in {group}'s settings, but {target.rpartition('.')[2]} takes it: +{key}=…"


def as_yaml(settings: CommandSettings) -> str:
    """Return a command's settings as the YAML file that a run directory holds, which `config=FILE` reads again."""
    return OmegaConf.to_yaml(OmegaConf.create(settings.as_plain()))


def plain(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """Return a config in Python's own values."""
    values = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}
