"""Read YAML that somebody else may have written: limited in size, depth and aliases, without interpolations.

The events of the file are counted before anything is built from them: an alias counts as much as what it repeats, so a few
lines of aliases of aliases are refused like a file of that length.
"""

import io
import math
from functools import cache
from pathlib import Path

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from ldm_train.util.safe_json import LARGEST_INT, read_text
from ldm_train.util.text import shorten

LARGEST_FILE = 2**20  # bytes
LARGEST_COUNT = 100_000  # values, with what aliases repeat
DEEPEST = 50  # levels; shipped configs have four


def read_yaml(path: Path) -> DictConfig | ListConfig:
    """Return what a YAML file holds.

    Raises:
        ValueError: it cannot be read, is no YAML, or exceeds a limit; it names the file.
    """
    try:
        text = read_text(path, limit=LARGEST_FILE)
        _check_events(text)
        config = _load(text)
        _check_numbers(OmegaConf.to_container(config, resolve=False))
    except Exception as error:  # YAML's own classes of errors are not OmegaConf's
        raise ValueError(f"{path} cannot be read as YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(config, DictConfig | ListConfig):
        raise ValueError(f"{path} cannot be read as YAML settings: it holds one value")
    return config


def read_settings_file(path: Path) -> DictConfig:
    """Return the settings in a YAML file; an empty file has none.

    Raises:
        ValueError: as `read_yaml`, or it is a list.
    """
    config = read_yaml(path)
    if not isinstance(config, DictConfig):
        raise ValueError(f"{path} must hold settings, `name: value` in each line")
    return config


def parse_yaml(text: str) -> object:
    """Return what a text of YAML holds.

    Raises:
        ValueError: it is no YAML, or exceeds a limit.
    """
    try:
        _check_events(text)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{shorten(text)} cannot be read as YAML; quote texts with colons and commas") from error


def read_plain_yaml(path: Path) -> object:
    """Return what a YAML file holds as plain lists and mappings; raises as `read_yaml`."""
    return OmegaConf.to_container(read_yaml(path), resolve=False)


def read_written(path: Path) -> object:
    """Return what a file that `read_yaml` accepts holds, each number, switch and null as the text that is written there."""
    return yaml.load(read_text(path, limit=LARGEST_FILE), Loader=yaml.BaseLoader)


def _check_events(text: str) -> None:
    """Raise if a file is too deep or too long once its aliases are replaced by what they repeat."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        anchor, size = getattr(event, "anchor", None), 1
        if (tag := getattr(event, "tag", None)) is not None:
            raise ValueError(f"the tag {shorten(tag)} is not accepted; write plain values")
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, 1))
            if len(open_nodes) > DEEPEST:
                raise ValueError(f"it is nested more than {DEEPEST} levels deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise ValueError(f"the alias *{anchor} repeats itself or nothing")
            size = sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            _check_scalar(event.value, plain=event.implicit[0])
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if open_nodes:
            outer, count = open_nodes[-1]
            open_nodes[-1] = (outer, count + size)
        if size > LARGEST_COUNT:
            raise ValueError(f"it holds more than {LARGEST_COUNT:,} values, counting what aliases repeat")


def _check_scalar(text: str, *, plain: bool) -> None:
    """Raise for an interpolation, which would read the environment, and for a number that is too large."""
    if "${" in text:
        raise ValueError(f"{shorten(text)} is an interpolation; write the value, or give it on the command line")
    if not plain or not text.lstrip("+-.")[:1].isdigit():
        return
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        return  # a text, or an integer in another notation, which `_check_numbers` sees
    if math.isinf(number):
        raise ValueError(f"the number {shorten(text)} is too large")


def _check_numbers(value: object) -> None:
    """Raise for an integer that is too large for any setting."""
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise ValueError(f"a number of {value.bit_length()} bits is too large")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_numbers(item)


def _load(text: str) -> object:
    """Return what `OmegaConf.load` makes of a text; libyaml's parser, where there is one, takes a third of the time."""
    loader = fast_loader()
    if loader is None:
        return OmegaConf.load(io.StringIO(text))
    values = yaml.load(text, Loader=loader)
    if not isinstance(values, dict | list | str | None):
        raise ValueError(f"it holds one {type(values).__name__}")
    return OmegaConf.create({} if values is None else values)


@cache
def fast_loader() -> type[yaml.SafeLoader] | None:
    """Return OmegaConf's loader with libyaml's parser; None if there is no libyaml, or the loader is elsewhere."""
    try:
        from omegaconf._utils import get_yaml_loader
    except ImportError:  # another version of OmegaConf, of whose private modules this is one
        return None
    if not yaml.__with_libyaml__:
        return None
    loader: type[yaml.SafeLoader] = get_yaml_loader()

    class FastLoader(yaml.cyaml.CParser, loader):
        def __init__(self, stream: str) -> None:
            yaml.cyaml.CParser.__init__(self, stream)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

    return FastLoader
