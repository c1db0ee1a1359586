"""The shipped configs as files: the groups with their options, and what to answer to a name that is not among them."""

import importlib
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ldm_train.settings.foreign_names import suggest_option
from ldm_train.settings.safe_yaml import read_settings_file
from ldm_train.settings.schema.options import Part, read_part


class ConfigError(Exception):
    """A command line that does not make a config: the message says which word and what is accepted."""


def folder() -> Path:
    """Where the configs lie: `conf/` of the repository, or `ldm_train/conf` of an installed wheel."""
    return Path(next(iter(importlib.import_module("ldm_train.conf").__path__)))


def groups() -> dict[str, list[str]]:
    """Every config group and its options."""
    found = {p: sorted(f.stem for f in p.glob("*.yaml")) for p in sorted(folder().iterdir()) if p.is_dir()}
    return {p.name: names for p, names in found.items() if names}


def read(path: Path) -> DictConfig:
    """A YAML file of settings; an empty one has none.

    Raises:
        ConfigError: it is not there, not YAML, or no mapping.
    """
    try:
        return read_settings_file(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error


@cache
def shipped(name: str) -> DictConfig:
    """A shipped YAML file, such as "train" or "network/unet_small", as it is written; not to be changed."""
    return read(folder() / f"{name}.yaml")


@cache
def groups_of(verb: str) -> dict[str, bool]:
    """The groups that a verb uses, and whether it can do without each."""
    entries = [str(key) for entry in shipped(verb).defaults if isinstance(entry, DictConfig) for key in entry]
    return {entry.removeprefix("optional "): entry.startswith("optional ") for entry in entries}


def dotted(config: DictConfig, prefix: str = "") -> list[str]:
    """The names of all settings, at any depth."""
    found = []
    for key in map(str, config):
        found.append(f"{prefix}{key}")
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            found += dotted(node, f"{prefix}{key}.")
    return found


def none_chosen(group: str, setting: str) -> str:
    """What to answer to a setting of a group of which no option is chosen."""
    return (
        f"{setting} is of the group {group}, and no option of it is chosen; "
        f"add {group}=OPTION, one of: {', '.join(groups()[group])}"
    )


def shipped_part(group: str, option: str) -> Part:
    """Return a shipped option of a group."""
    part = read_part(group, OmegaConf.to_container(shipped(f"{group}/{option}")))
    assert isinstance(part, Part)
    return part


def key_of(word: str) -> str:
    """Return the name of what a word of the command line sets."""
    return word.lstrip("+~").partition("=")[0]


def refuse_unknown_options(verb: str, overrides: list[str]) -> None:
    """Raise for an option that there is not, which Hydra passes over in silence, and for settings of Hydra's own.

    Raises:
        ConfigError: it names the options that there are.
    """
    known = groups()
    for word in overrides:
        key, _, value = word.partition("=")
        if key_of(word).partition(".")[0] == "hydra":
            raise ConfigError(f"{word} has no meaning here: Hydra composes the settings, and runs nothing")
        if value == "null" and not groups_of(verb).get(key, True):
            raise ConfigError(f"{verb} needs {key}=…, one of: {', '.join(known[key])}")
        if key in known and value not in {*known[key], "null"}:
            raise ConfigError(
                f"{key}={value} is no option; there are: {', '.join(known[key])}{suggest_option(key, value, known[key])} "
                f"(a setting of it is {key}.NAME=VALUE{'; a file of yours: config=FILE' * (key == 'experiment')})"
            )
