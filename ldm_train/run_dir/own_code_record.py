"""Record which code outside this package a run used, so that a change of it is noticed when the run is continued.

Of an object that a Python program passed, the source of its class is recorded; None if Python does not know it, as of a
class that was typed into an interpreter.
"""

import hashlib
import inspect
import sys
from collections.abc import Collection, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ldm_train.run_dir.git_state import git_state
from ldm_train.run_dir.reading import Plain
from ldm_train.settings.constructors import LISTS, find_constructor
from ldm_train.settings.schema.options import CommandSettings, Part, read_part, select
from ldm_train.settings.trust import REFUSED, current_grants
from ldm_train.settings.validation import parts_of


def describe_own_code(config: CommandSettings) -> dict[str, Plain]:
    """Return the packages of own code that a run uses: version, state in git, and SHA-256 of their imported modules.

    An object of a module that is no file of its own, such as a notebook, has the SHA-256 of its class instead.
    """
    for group, part in _list_parts(config):
        if current_grants().cover(part.target):
            find_constructor(part.target, group)  # which imports it
    found: dict[str, Plain] = {}
    passed = [part.target for _, part in _list_parts(config) if part.target in current_grants().objects]
    codes = {target: current_grants().objects[target].code for target in passed}
    modules = {target: str(getattr(code, "__module__", "")) for target, code in codes.items()}
    files = dict(_list_sources(modules.values()))
    for module, path in files.items():
        _note_source(found, module, path, path.read_bytes())
    for target, module in modules.items():
        if module not in files and module.partition(".")[0] not in REFUSED - {"__main__"}:
            name = f"{module}.{getattr(codes[target], '__qualname__', target)}"
            _note_source(found, name, Path.cwd() / module, read_source(codes[target]))
    return found


def _note_source(found: dict[str, Plain], name: str, path: Path, source: bytes | None) -> None:
    package = name.partition(".")[0]
    sources = found.setdefault(package, _describe_package(package, path))["sources"]
    assert isinstance(sources, dict)
    sources[name] = None if source is None else hashlib.sha256(source).hexdigest()


def read_source(code: object) -> bytes | None:
    """Return the source of a class or a function; of a class in a notebook, that of its methods. None if it is not known."""
    members = [member for member in getattr(code, "__dict__", {}).values() if inspect.isfunction(member)]
    for parts in ([code], members):
        try:
            if parts:
                return "".join(inspect.getsource(part) for part in parts).encode()  # type: ignore[arg-type]
        except (OSError, TypeError):
            continue
    return None


def list_changed(before: object, now: dict[str, Plain]) -> list[str]:
    """Return the modules whose source is not what it was, or that only one of two records has."""
    then, current = _read_sources(before), _read_sources(now)
    return sorted(module for module in then | current if then.get(module) != current.get(module))


def _read_sources(record: object) -> dict[str, object]:
    """Return the digests of all modules in a record, which may be damaged."""
    entries = list(record.values()) if isinstance(record, dict) else []
    sources = [entry["sources"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("sources"), dict)]
    return {str(module): digest for one in sources for module, digest in one.items()}


def _list_parts(config: CommandSettings) -> Iterator[tuple[str, Part]]:
    yield from parts_of(config).items()
    for setting, group in LISTS.items():
        for item in select(config, setting) or []:
            if isinstance(part := read_part(group, item), Part):
                yield group, part


def _list_sources(modules: Collection[str]) -> Iterator[tuple[str, Path]]:
    """Yield the imported modules of trusted packages, and of the packages of these modules, with their files."""
    packages = {module.partition(".")[0] for module in modules} - REFUSED
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        own = current_grants().cover(f"{name}.") or name.partition(".")[0] in packages
        if own and file is not None and Path(file).is_file():
            yield name, Path(file)


def _describe_package(package: str, path: Path) -> Plain:
    try:
        known: str | None = version(package)
    except PackageNotFoundError:
        known = getattr(sys.modules.get(package), "__version__", None)
    return {"version": None if known is None else str(known), "git": git_state(path.parent), "sources": {}}
