"""Checksums of the configs and tokenizer files of an export, so that damage is noticed before one of them is used.

`export.json` holds them, and one of itself. Weights have their own checksums; other files of the folder may be edited.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from ldm_train.util.inputs import MAX_PROMPTS, read_input
from ldm_train.util.ownership import EXPORT
from ldm_train.util.safe_json import Json, read_object
from ldm_train.weights.tensor_files import CHECKSUMS

CHECKED_SUFFIXES = {".json", ".txt"}
OWN = ""  # the name under which the record's own checksum stands


def add_checksums(record: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Return an export's record with the checksums of the configs and tokenizer files in the folder, and its own."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in CHECKED_SUFFIXES and path.is_file())
    sums = {path.relative_to(folder).as_posix(): zlib.crc32(path.read_bytes()) for path in paths}
    return {**record, CHECKSUMS: {OWN: _checksum_record(record, sums), **sums}}


def read_export_record(folder: Path) -> dict[str, Json]:
    """Return what `export.json` holds besides checksums; empty if there is no such file.

    Raises:
        ValueError: it cannot be read, or is damaged.
    """
    return _read_record(folder)[0]


def check_exported_file(path: Path) -> None:
    """Raise if an export wrote this file, and it has another content now.

    Raises:
        ValueError: it has, or the export's record is damaged.
    """
    for folder in (path.parent, path.parent.parent):
        expected = _read_record(folder)[1].get(path.relative_to(folder).as_posix())
        if expected is not None and zlib.crc32(read_input(path, limit=MAX_PROMPTS)) != expected:
            raise ValueError(
                f"{path} is damaged, or was changed since `ldm-train export` wrote it: its checksum differs. Export again, "
                f"or restore it from a copy; if you changed it on purpose, remove {folder / EXPORT.mark}"
            )


def check_exported_folder(folder: Path) -> None:
    """Raise if a config or tokenizer file that an export wrote into a folder has another content now.

    Raises:
        ValueError: naming the first such file.
    """
    for name in _read_record(folder)[1]:
        if (folder / name).is_file():
            check_exported_file(folder / name)


def _read_record(folder: Path) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return the record without checksums, and the checksums by the files' names."""
    path = folder / EXPORT.mark
    record = read_object(path) if path.is_file() else {}
    sums = record.pop(CHECKSUMS, None)
    if not isinstance(sums, dict):
        return record, {}
    if sums.pop(OWN, None) != _checksum_record(record, sums):
        raise ValueError(f"{path} is damaged: its checksum differs. Export again, or restore it from a copy")
    return record, sums


def _checksum_record(record: Mapping[str, object], sums: Mapping[str, object]) -> int:
    return zlib.crc32(json.dumps([record, sums], sort_keys=True).encode())
