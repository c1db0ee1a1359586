"""Configs: composed by Hydra from `conf/`, checked, and turned into objects of an allowed list of packages."""

import difflib
import importlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

PATHS = {"cache", "run_dir", "out"}
ACCEPTED: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}
FREE = {"trainer.devices"}  # Lightning takes a number, a list or "auto"
ALLOWED = ("ldm_train.", "torch.optim.", "bitsandbytes.optim.", "pytorch_lightning.loggers.")
EXTRAS = {"bitsandbytes": "eight_bit"}  # packages that an installation may lack, and the extra that brings each


class ConfigError(Exception):
    """A command line that does not make a config: the message says which word and what is accepted."""


def folder() -> Path:
    """Where the configs lie: `conf/` of the repository, or `ldm_train/conf` of an installed wheel."""
    return Path(next(iter(importlib.import_module("ldm_train.conf").__path__)))


def compose(verb: str, overrides: list[str]) -> DictConfig:
    """The config of one verb with these overrides, interpolations resolved, no mandatory value missing.

    Raises:
        ConfigError: an unknown key, group or option (with the nearest name), a wrong type, or a value that is missing.
    """
    _refuse_unknown_options(overrides)
    try:
        config = _hydra(verb, overrides)
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(f"{verb} needs {', '.join(f'{key}=…' for key in missing)} (see `ldm-train {verb} --help`)")
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(verb, overrides, error)) from error
    for key in PATHS & config.keys():
        if config[key] is not None:
            value = config[key]
            config[key] = [str(path) for path in value] if isinstance(value, ListConfig) else str(value)
    _refuse_wrong_types(_hydra(verb, _options(overrides)), config)
    return config


def _hydra(verb: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder()), version_base="1.3"):
        return hydra_compose(verb, overrides)


def _options(overrides: list[str]) -> list[str]:
    """Those that choose groups' options, whose settings are then the known ones."""
    return [word for word in overrides if word.partition("=")[0] in groups()]


def _refuse_unknown_options(overrides: list[str]) -> None:
    """Hydra passes over an unknown option of an optional group in silence."""
    known = groups()
    for word in overrides:
        key, _, value = word.partition("=")
        if key in known and value not in {*known[key], "null"}:
            raise ConfigError(
                f"{key}={value} is no option; there are: {', '.join(known[key])}{nearest(value, known[key])} "
                f"(a setting of it is {key}.NAME=VALUE)"
            )


def _refuse_wrong_types(defaults: DictConfig, config: DictConfig, prefix: str = "") -> None:
    """Where the default is a number or a switch, the value must be one too."""
    for key in map(str, config):
        default = None if key not in defaults or OmegaConf.is_missing(defaults, key) else defaults[key]
        value = config[key]
        if isinstance(default, DictConfig) and isinstance(value, DictConfig):
            _refuse_wrong_types(default, value, f"{prefix}{key}.")
        elif isinstance(default, bool | int | float) and value is not None:
            accepted = next(words for kind, words in ACCEPTED.items() if isinstance(default, kind))
            whole = isinstance(value, int) or not isinstance(default, int)
            right = isinstance(value, bool) == isinstance(default, bool) and isinstance(value, int | float) and whole
            if not right and prefix + key not in FREE:
                raise ConfigError(f"{prefix}{key}={value} is not {accepted}, such as its default {default}")


def describe(verb: str) -> str:
    """A verb's settings with their comments, and the options of each group it uses."""
    text = (folder() / f"{verb}.yaml").read_text(encoding="utf-8")
    used = [
        key.split()[-1].lstrip("/")
        for entry in OmegaConf.create(text).defaults
        if not isinstance(entry, str)
        for key in entry
    ]
    options = "\n".join(f"  {group}={'|'.join(names)}" for group, names in groups().items() if group in used)
    return f"{text}\nGroups:\n{options}" if options else text


def groups() -> dict[str, list[str]]:
    """Every config group and its options."""
    found = {p: sorted(f.stem for f in p.glob("*.yaml")) for p in sorted(folder().iterdir()) if p.is_dir()}
    return {p.name: names for p, names in found.items() if names}


def words(group: str, config: DictConfig) -> list[str]:
    """The command line that makes a group's part of a config: the nearest option, and what differs from it."""
    part = {str(key): value for key, value in config[group].items()}
    options = {name: OmegaConf.load(folder() / group / f"{name}.yaml") for name in groups()[group]}
    differing = {
        name: {key: value for key, value in part.items() if key not in option or option[key] != value}
        for name, option in ((n, OmegaConf.to_container(o)) for n, o in options.items())
        if isinstance(option, dict) and option.get("_target_") == part["_target_"]
    }
    name = min(differing, key=lambda name: len(differing[name]))
    return [f"{group}={name}", *(f"{group}.{key}={value}" for key, value in differing[name].items())]


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion to end a message with, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _explain(verb: str, overrides: list[str], error: Exception) -> str:
    """The first override that is not known, with the nearest name; else Hydra's own words."""
    plain = list(_dotted(_hydra(verb, _options(overrides))))
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
        parent = key.rpartition(".")[0]
        if key not in plain and key not in groups() and parent.split(".")[0] not in groups():
            return f"unknown setting {key!r} of {verb}{nearest(key, plain)} (`ldm-train {verb} --help` lists them)"
    known = re.search(r"Key '(\w+)' is not in struct\s+full_key: ([\w.]+)", f"{error} {error.__cause__}")
    if known:
        return f"unknown setting {known[2]!r} of {verb}{nearest(known[2], plain)} (`ldm-train {verb} --help` lists them)"
    return str(error.__cause__ or error).strip()


def _dotted(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, config):
        yield f"{prefix}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _dotted(node, f"{prefix}{key}.")


def build(config: DictConfig, **values: object) -> Any:
    """The object that a config's `_target_` names, with further arguments; nested targets are built first.

    A config with `_partial_: true` gives the constructor with its arguments bound. Lists and mappings arrive as Python's
    own: an optimizer keeps what it is given, and a checkpoint with omegaconf's in it would not load.

    Raises:
        ValueError: a name outside the allowed packages, or arguments that the constructor does not take.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    for target in targets(config):
        if not target.startswith(ALLOWED) or not _home(target).startswith(ALLOWED):
            raise ValueError(
                f"_target_: {target} is outside what a config may build ({', '.join(ALLOWED)}); nothing was run"
            )
    try:
        return instantiate(config, _convert_="all", **values)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError | OSError):
            raise cause from error
        raise ValueError(f"{config.get('_target_')}: {cause or error}") from error


def _home(target: str) -> str:
    """The module in which a target is defined: an allowed module is no way to what it imports."""
    from hydra.utils import get_object

    package = target.partition(".")[0]
    if package in EXTRAS and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"_target_: {target} needs the package {package}, which is not installed: "
            f"pip install 'ldm-train[{EXTRAS[package]}]', or choose another"
        )
    try:
        return str(getattr(get_object(target), "__module__", "")) + "."
    except (HydraException, ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"_target_: {target} is not there ({error})") from error


def at_least_one(config: DictConfig, *names: str) -> None:
    """Refuse counts below 1, by their dotted names."""
    for name in names:
        value = OmegaConf.select(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


def targets(config: object) -> Iterator[str]:
    """Every `_target_` in a config."""
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True)
    if isinstance(config, dict):
        if "_target_" in config:
            yield str(config["_target_"])
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from targets(value)
