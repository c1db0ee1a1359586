"""Configs: composed by Hydra from `conf/`, and checked; `constructors` turns them into objects."""

import re
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic.fields import FieldInfo

from ldm_train.settings.config_file import CONFIG, file_words, text
from ldm_train.settings.constructors import build
from ldm_train.settings.schema.commands import SCHEMAS, default_values, kind_of, own_settings
from ldm_train.settings.schema.kinds import Section, takes_null, takes_only_text, takes_text
from ldm_train.settings.schema.kinds import describe as describe_kind
from ldm_train.settings.schema.options import KEPT, PASSED, TARGET, CommandSettings, Part
from ldm_train.settings.shipped import ConfigError, dotted, folder, groups, groups_of, none_chosen, read, shipped
from ldm_train.settings.signatures import signature
from ldm_train.settings.strict import SET_BY_THE_RUN, TRAINER, NameCheck, describe_set_by_the_run
from ldm_train.settings.trust import is_trust
from ldm_train.settings.validation import read_settings
from ldm_train.util.text import nearest

__all__ = ["ConfigError", "build", "compose", "describe", "folder", "groups", "nearest", "words"]

Settings = TypeVar("Settings", bound=CommandSettings)
PLAIN = re.compile(r"[\w./~][^\s'\"\[\](){}]*")  # a path as people type it


def compose_as(kind: type[Settings], overrides: list[str]) -> Settings:
    """Return `compose` for the command that has these settings."""
    verb = next(verb for verb, schema in SCHEMAS.items() if schema is kind)
    settings = compose(verb, overrides)
    assert isinstance(settings, kind)
    return settings


def compose(verb: str, overrides: list[str]) -> CommandSettings:
    """Return the settings of a command with these overrides, interpolations resolved.

    Raises:
        ConfigError: an unknown key, group or option (with the nearest name), a wrong type, or a missing value.
    """
    typed = [word for word in overrides if key_of(word) != CONFIG and not is_trust(word)]
    _refuse_unknown_options(verb, typed)
    targets = targets_of(verb, typed)
    own = [readable(quote_text(verb, word, targets)) for word in typed]
    own = [f"~{key_of(word)}" if word == f"{key_of(word)}=null" and key_of(word) in groups() else word for word in own]
    own = [part for word in own for part in _deletable(word)]
    files = [word.partition("=")[2].strip("'\"") for word in overrides if key_of(word) == CONFIG]
    chosen = {key_of(word) for word in own}
    given = [word for file in files for word in file_words(verb, file, chosen=chosen)] + own
    try:
        config = _hydra(verb, given)
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(f"{verb} needs {', '.join(f'{key}=…' for key in missing)} (see `ldm-train {verb} --help`)")
        OmegaConf.resolve(config)
        refuse_interpolations(OmegaConf.to_container(config, resolve=False))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(verb, given, error)) from error
    values = plain(config)
    _complete_network(values)
    options = tuple(word for word in _choices(verb, given) if key_of(word) != "experiment")
    origin = Origins(own, files, given)
    NameCheck(verb, origin, plain(defaults(verb, options), resolve=False))(values)
    return read_settings(verb, values, origin)


def _complete_network(values: dict[str, Any]) -> None:
    """Add what is read of every network, whoever made it, if a mapping without it replaced an option."""
    network = values.get("network")
    if isinstance(network, dict) and TARGET in network:
        option = shipped("network/unet_small")
        values["network"] = network | {key: option[key] for key in KEPT["network"] if key not in network}


def targets_of(verb: str, words: list[str]) -> dict[str, str]:
    """Return the constructor of each group of a command, by the options that words choose, or else the default ones."""
    entries = [entry for entry in shipped(verb).defaults if isinstance(entry, DictConfig)]
    options = {str(key).removeprefix("optional "): value for entry in entries for key, value in entry.items()}
    options |= {key_of(word): word.partition("=")[2] for word in words if key_of(word) in groups_of(verb)}
    known = groups()
    names = {group: f"{group}/{option}" for group, option in options.items() if option in known.get(group, ())}
    return {group: str(shipped(name).get(TARGET, "")) for group, name in names.items()}


def quote_text(verb: str, word: str, targets: dict[str, str]) -> str:
    """Return a word whose setting takes a text with its value in quotes, so that Hydra's grammar reads it as it was typed."""
    key, equals, value = word.partition("=")
    found = kind_of(verb, key_of(word), targets)
    if not equals or found is None or word.startswith("~") or not takes_text(found[0]):
        return word
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    listed = value[:1] in ("[", "{") and not takes_only_text(found[0])
    if quoted or listed or "${" in value or (value == "null" and takes_null(found[0])):
        return word
    return f"{key}={QuotedString(value, Quote.double).with_quotes()}"


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
    """Which file a setting's value is from, to be told beside what is wrong with it."""

    def __init__(self, words: list[str], files: list[str], given: list[str]) -> None:
        self.words = words
        experiments = [word.partition("=")[2] for word in given if key_of(word) == "experiment"]
        self.files = {file: Path(file) for file in reversed(files)} | {
            f"experiment={name}": folder() / "experiment" / f"{name}.yaml" for name in experiments if name != "null"
        }

    def __call__(self, name: str) -> str:
        if not any(f"{name}.".startswith(f"{key_of(word)}.") for word in self.words):
            for told, path in self.files.items():
                if name in dotted(read(path)):
                    return f" in {told}"
        return ""


def key_of(word: str) -> str:
    """What a word of the command line sets."""
    return word.lstrip("+~").partition("=")[0]


def _deletable(word: str) -> list[str]:
    """A word, after one that gives a value to the option's setting that it deletes: Hydra deletes nothing that is null."""
    key = key_of(word)
    return [f"{key}=0", word] if word == f"~{key}" and key.partition(".")[0] in groups() and "." in key else [word]


def readable(word: str) -> str:
    """A word with its value in quotes where Hydra's grammar has no other way to read it, such as a path with "=" in it."""
    key, _, value = word.partition("=")
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return f"{key}={QuotedString(value, Quote.double).with_quotes()}" if PLAIN.fullmatch(value) else word
    return word


@cache
def defaults(verb: str, options: tuple[str, ...] = ()) -> DictConfig:
    """Return a command's config as it is shipped, with these options of groups; not to be changed."""
    return _hydra(verb, list(options))


def _hydra(verb: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    ConfigStore.instance().store(name=f"{verb}_settings", node=default_values(verb))
    with initialize_config_dir(str(folder()), version_base="1.3"):
        return hydra_compose(verb, overrides)


def _refuse_unknown_options(verb: str, overrides: list[str]) -> None:
    """Hydra passes over an unknown option of an optional group in silence, and over settings of its own."""
    known = groups()
    for word in overrides:
        key, _, value = word.partition("=")
        if key_of(word).partition(".")[0] == "hydra":
            raise ConfigError(f"{word} has no meaning here: Hydra composes the settings, and runs nothing")
        if value == "null" and not groups_of(verb).get(key, True):
            raise ConfigError(f"{verb} needs {key}=…, one of: {', '.join(known[key])}")
        if key in known and value not in {*known[key], "null"}:
            raise ConfigError(
                f"{key}={value} is no option; there are: {', '.join(known[key])}{nearest(value, known[key])} "
                f"(a setting of it is {key}.NAME=VALUE{'; a file of yours: config=FILE' * (key == 'experiment')})"
            )


FORMS = """\
Also on the command line:
  config=FILE.yaml    settings from a file, before the words: `max_steps: 500`, `optimizer: {lr: 1.0e-3}`, or options of
                      groups, `schedule: cosine`; a run's config.yaml is one
  trust=PACKAGE       or [A,B]: settings may name classes and functions of these packages in `_target_`; their code then runs
                      with your rights. A file cannot grant this
  --multirun          every combination of several values, `seed=0,1 optimizer.lr=1e-3,1e-4`, one after the other, each in a
                      directory of its own; with --dry-run, print their commands instead
"""


def describe(verb: str) -> str:
    """Return a command's help: its settings with their defaults and kinds, and the options of each group that it uses."""
    header = [line for line in (folder() / f"{verb}.yaml").read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    own = [_describe_setting(name, info) for name, info in own_settings(verb).items()]
    options = "\n".join(f"  {group}={'|'.join(names)}" for group, names in groups().items() if group in groups_of(verb))
    usage = "\n".join(line.removeprefix("#").removeprefix(" ") for line in header)
    return f"{usage}\n\nSettings:\n" + "\n".join(own) + f"\n\n{FORMS}\nGroups:\n{options}"


def _describe_setting(name: str, info: FieldInfo) -> str:
    if isinstance(info.default, Section):
        return f"  {name}: {(type(info.default).__doc__ or '').strip()}"
    default = "required" if info.is_required() else text(info.default)
    kind = describe_kind(info.annotation, info.metadata)
    return f"  {name}={default}  {info.description or ''} ({kind})"


def words(group: str, chosen: Part | None) -> list[str]:
    """The command line that makes a group's part of a config: the nearest option, and what differs from it."""
    if chosen is None:
        return []
    part = chosen.as_plain()
    options = {name: shipped(f"{group}/{name}") for name in groups()[group]}
    differing = {
        name: {key: value for key, value in part.items() if key not in option or option[key] != value}
        for name, option in ((n, OmegaConf.to_container(o)) for n, o in options.items())
        if isinstance(option, dict) and option.get("_target_") == part["_target_"]
    }
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
        if (
            key in groups()
            and value not in groups()[key]
            and isinstance(error, HydraException)
            and "Could not find" in str(error)
        ):
            return f"{key}={value} is no option; there are: {', '.join(groups()[key])}{nearest(value, groups()[key])}"
    chosen = _with_options(verb, overrides)
    plain = dotted(chosen)
    for word in overrides:
        key = key_of(word)
        parent = key.rpartition(".")[0]
        if key not in plain and key not in groups() and parent.split(".")[0] not in groups():
            return f"unknown setting {key!r} of {verb}{nearest(key, plain)} (`ldm-train {verb} --help` lists them)"
    known = re.search(r"Key '(\w+)' is not in struct\s+full_key: ([\w.]+)", f"{error} {error.__cause__}")
    if known and known[2] in groups_of(verb):
        return none_chosen(known[2], next(key_of(word) for word in overrides if key_of(word).startswith(f"{known[2]}.")))
    if known and (told := _unlisted(chosen, known[2])):
        return told
    if known:
        return f"unknown setting {known[2]!r} of {verb}{nearest(known[2], plain)} (`ldm-train {verb} --help` lists them)"
    return str(error.__cause__ or error).strip()


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


def plain(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """Return a config in Python's own values."""
    values = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}
