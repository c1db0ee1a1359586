"""Safetensors files with metadata and a checksum for each tensor, written atomically."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ldm_train.util.safe_json import parse_json
from ldm_train.util.safetensors_file import get_bytes, save_tensors

METADATA_KEY = "ldm_train"  # only one, because safetensors writes several keys in another order each time
CHECKSUMS = "crc32"  # by the tensor's name; the safetensors format has no checksums


def write_tensor_file(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object], texts: Mapping[str, str] | None = None
) -> None:
    """Write tensors of any device, with metadata and checksums.

    Args:
        metadata: JSON values, which `read_metadata` returns.
        texts: further metadata under the keys of other tools.

    Raises:
        OSError: the disk is full, or another failure to write; what was at `path` is unchanged.
    """
    sums = {name: compute_checksum(tensor) for name, tensor in tensors.items()}
    save_tensors(path, tensors, {METADATA_KEY: format_metadata(metadata, sums), **(texts or {})})


def format_metadata(metadata: Mapping[str, object], checksums: Mapping[str, int]) -> str:
    """Return the JSON text of metadata, its own checksum (under the empty name) and those of the tensors."""
    own = zlib.crc32(json.dumps(metadata).encode())
    return json.dumps({**metadata, CHECKSUMS: {"": own, **dict(sorted(checksums.items()))}})


def compute_checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's type, shape and numbers."""
    described = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return zlib.crc32(get_bytes(tensor), described) if tensor.numel() else described


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, memory-mapped; compare them with their checksums if the file has some.

    Raises:
        ValueError: the file cannot be read, or is damaged.
    """
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors has an error class of its own
        raise ValueError(f"{path} cannot be read as a safetensors file ({error})") from error
    if checksums := read_checksums(path):
        for name in sorted({*tensors, *checksums} - {""}):
            check_tensor(path, name, tensors.get(name), checksums)
    return tensors


def read_checksums(path: Path) -> dict[str, int]:
    """Return the checksum of each tensor, for a reader of single tensors; none for a file of another program.

    Raises:
        ValueError: the file cannot be read.
    """
    checksums = _read_values(path, METADATA_KEY).get(CHECKSUMS, {})
    return checksums if isinstance(checksums, dict) else {}


def check_tensor(path: Path, name: str, tensor: Tensor | None, checksums: Mapping[str, int]) -> None:
    """Raise if a tensor of a file is not the one that was written.

    Raises:
        ValueError: it is missing, or its checksum differs.
    """
    if tensor is None or checksums.get(name) != compute_checksum(tensor):
        raise ValueError(
            f"{path} is damaged, or was changed by another program: the checksum of {name} differs. "
            "Write the file again, or restore it from a copy"
        )


def check_tensor_file(path: Path) -> None:
    """Raise if a file that another library will load is damaged. Tensors of a file without checksums are not read.

    Raises:
        ValueError: it cannot be read, or is damaged.
    """
    read_metadata(path)
    if checksums := read_checksums(path):
        with safe_open(path, "pt") as file:
            stored = set(file.keys())
            for name in sorted({*stored, *checksums} - {""}):
                check_tensor(path, name, file.get_tensor(name) if name in stored else None, checksums)


def read_metadata(path: Path, key: str = METADATA_KEY) -> dict[str, Any]:
    """Return the metadata that a file was written with, empty if it has none.

    Args:
        key: where another tool stores JSON in its files.

    Raises:
        ValueError: the file cannot be read, or is damaged.
    """
    metadata = _read_values(path, key)
    checksums = metadata.pop(CHECKSUMS, None) if key == METADATA_KEY else None
    if isinstance(checksums, dict) and checksums.get("") != zlib.crc32(json.dumps(metadata).encode()):
        raise ValueError(
            f"{path} is damaged: the checksum of its metadata differs. Write the file again, or restore it from a copy"
        )
    return metadata


def _read_values(path: Path, key: str) -> dict[str, Any]:
    """Return the JSON object under a key of the file's metadata; empty if there is none."""
    try:
        with safe_open(path, "pt") as file:
            values = parse_json((file.metadata() or {}).get(key, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a safetensors file ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} has metadata under {key} that is not a JSON object: the file is damaged, write it again")
    return values
