"""Names that a package gives, whose modules are imported when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

NO_MODULES: Mapping[str, str] = MappingProxyType({})


def give_lazily(
    package: str, places: Mapping[str, Sequence[str]], modules: Mapping[str, str] = NO_MODULES
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package.

    Args:
        places: the names that are taken from each module.
        modules: the modules that have other names here.
    """
    origins = {name: module for module, names in places.items() for name in names}

    def find(name: str) -> object:
        if name not in origins.keys() | modules.keys():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(origins[name] if name in origins else modules[name])
        found: object = getattr(module, name) if name in origins else module
        setattr(sys.modules[package], name, found)
        return found

    return find, lambda: sorted({*vars(sys.modules[package]), *origins, *modules})
