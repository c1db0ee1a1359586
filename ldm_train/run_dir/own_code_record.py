"""Record which code outside this package a run used, so that a change of it is noticed when the run is continued."""

import hashlib
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ldm_train.run_dir.git_state import git_state
from ldm_train.run_dir.reading import Plain
from ldm_train.settings.constructors import LISTS, find_constructor
from ldm_train.settings.schema.options import CommandSettings, Part, read_part, select
from ldm_train.settings.trust import current_grants
from ldm_train.settings.validation import parts_of


def describe_own_code(config: CommandSettings) -> dict[str, Plain]:
    """Return the trusted packages that a run uses: version, state in git, and SHA-256 of the modules that were imported."""
    for group, part in _list_parts(config):
        if current_grants().cover(part.target):
            find_constructor(part.target, group)  # which imports it
    found: dict[str, Plain] = {}
    for module, path in _list_sources():
        package = module.partition(".")[0]
        entry = found.setdefault(package, _describe_package(package, path))
        sources = entry["sources"]
        assert isinstance(sources, dict)
        sources[module] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


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


def _list_sources() -> Iterator[tuple[str, Path]]:
    """Yield the imported modules of trusted packages with their files."""
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if current_grants().cover(f"{name}.") and file is not None and Path(file).is_file():
            yield name, Path(file)


def _describe_package(package: str, path: Path) -> Plain:
    try:
        known: str | None = version(package)
    except PackageNotFoundError:
        known = getattr(sys.modules.get(package), "__version__", None)
    return {"version": None if known is None else str(known), "git": git_state(path.parent), "sources": {}}
