"""The configs as files: the groups with their options, and what to answer to a name that is not among them.

Next to the shipped ones there may be a user's own, in the folder of `config_path=DIR` on the command line.
"""

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ldm_train.settings.foreign_names import suggest_option
from ldm_train.settings.safe_yaml import read_settings_file
from ldm_train.settings.schema.options import Part, read_part
from ldm_train.settings.schema.typed_values import expand_home, unquote
from ldm_train.util.text import nearest

CONFIG_PATH = "config_path"
_own_folder: Path | None = None  # of this process; no file can set it


class ConfigError(Exception):
    """A command line that does not make a config: the message says which word and what is accepted."""


def folder() -> Path:
    """Where the configs lie: `conf/` of the repository, or `ldm_train/conf` of an installed wheel."""
    return Path(next(iter(importlib.import_module("ldm_train.conf").__path__)))


def groups() -> dict[str, list[str]]:
    """Every config group and its options, shipped ones and a user's own."""
    own = {} if _own_folder is None else _list_options(_own_folder)
    return {group: sorted([*options, *own.get(group, [])]) for group, options in shipped_groups().items()}


def shipped_groups() -> dict[str, list[str]]:
    """Every config group and its shipped options."""
    return _list_options(folder())


def _list_options(place: Path) -> dict[str, list[str]]:
    found = {p: sorted(f.stem for f in p.glob("*.yaml")) for p in sorted(place.iterdir()) if p.is_dir()}
    return {p.name: names for p, names in found.items() if names}


def own_option(group: str, option: str) -> Path | None:
    """Return the file of a user's own option; None if there is none of this name."""
    path = None if _own_folder is None else _own_folder / group / f"{option}.yaml"
    return path if path is not None and option in _list_options(path.parent.parent).get(group, []) else None


def option_file(name: str) -> Path:
    """Return the file of "train", "network/unet_small" or an own option."""
    group, _, option = name.rpartition("/")
    own = own_option(group, option)
    return folder() / f"{name}.yaml" if own is None else own


@contextmanager
def searching(words: Sequence[str]) -> Iterator[None]:
    """Let the options in the folder of `config_path=DIR` be chosen by name until the block ends.

    Raises:
        ConfigError: there is no such folder, or it holds something else than options of groups.
    """
    global _own_folder
    before, given = _own_folder, [word.partition("=")[2] for word in words if key_of(word) == CONFIG_PATH]
    _own_folder = _check_folder(Path(expand_home(unquote(given[-1])))) if given else None
    try:
        yield
    finally:
        _own_folder = before


def _check_folder(place: Path) -> Path:
    if not place.is_dir():
        raise ConfigError(f"{CONFIG_PATH}={place} is no folder; it takes one with options such as network/mine.yaml")
    known = shipped_groups()
    for group, options in _list_options(place).items():
        if group not in known:
            raise ConfigError(
                f"{place / group} is no group of options; there are: {', '.join(known)}{nearest(group, known)}"
            )
        if taken := sorted({*options} & {*known[group]}):
            raise ConfigError(f"{place / group / taken[0]}.yaml has the name of a shipped option; give it another one")
    return place.absolute()


def read(path: Path) -> DictConfig:
    """A YAML file of settings; an empty one has none.

    Raises:
        ConfigError: it is not there, not YAML, or no mapping.
    """
    try:
        return read_settings_file(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def shipped(name: str) -> DictConfig:
    """The YAML file of "train", "network/unet_small" or an own option, as it is written; not to be changed."""
    return _read_once(option_file(name))


@cache
def _read_once(path: Path) -> DictConfig:
    return read(path)


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


def none_chosen(group: str, setting: str, cache: object = None) -> str:
    """What to answer to a setting of a group of which no option is chosen.

    Args:
        cache: the value of the setting of this name; None if there is none.
    """
    options = f"{group}=OPTION, one of: {', '.join(groups()[group])}"
    if group == "source" and cache is not None:
        return (
            f"{setting} does not go with cache={cache}: the cache holds its pictures already. Leave {setting} "
            f"out; or set cache=null, to encode a source on the fly, and add {options}"
        )
    return f"{setting} is of the group {group}, and no option of it is chosen; add {options}"


def none_chosen_by(words: Sequence[str], group: str) -> str:
    """What to answer to words of the command line with a setting of such a group."""
    cache = next((unquote(word.partition("=")[2]) for word in reversed(words) if key_of(word) == "cache"), "null")
    setting = next(key_of(word) for word in words if key_of(word).startswith(f"{group}."))
    return none_chosen(group, setting, None if cache == "null" else cache)


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
        if key_of(word).partition(".")[0].partition("/")[0] == "hydra" or key_of(word) == "objective":
            raise ConfigError(f"{word} is for sweeps: hydra/launcher, hydra/sweeper and objective go with --multirun only")
        if value == "null" and not groups_of(verb).get(key, True):
            raise ConfigError(f"{verb} needs {key}=…, one of: {', '.join(known[key])}")
        if key in known and value not in {*known[key], "null"}:
            own = "; a file of yours: config=FILE" if key == "experiment" else ""
            if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value):
                own = f"; a class of yours: {key}._target_={value} trust={value.partition('.')[0]}"
            raise ConfigError(
                f"{key}={value} is no option; there are: {', '.join(known[key])}{suggest_option(key, value, known[key])} "
                f"(a setting of it is {key}.NAME=VALUE{own})"
            )
