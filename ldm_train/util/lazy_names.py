"""Names that a package gives, whose modules are imported when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

NO_MODULES: Mapping[str, str] = MappingProxyType({})


def give_lazily(
    package: str, places: Mapping[str, str], modules: Mapping[str, str] = NO_MODULES
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package.

    Args:
        places: the module that holds each name.
        modules: the modules that have other names here.
    """

    def find(name: str) -> object:
        if name in modules:
            found: object = importlib.import_module(modules[name])
        elif name in places:
            found = getattr(importlib.import_module(places[name]), name)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, found)
        return found

    return find, lambda: sorted({*vars(sys.modules[package]), *places, *modules})
