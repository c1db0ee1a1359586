"""Named tensors in a safetensors file that is whole or absent, with what is told of them beside."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ldm_train.util.safe_json import parse_json
from ldm_train.util.safetensors_file import Layout, write_safetensors

TOLD = "ldm_train"  # one key, because safetensors writes several in another order each time
CHECKSUMS = "crc32"  # what safetensors itself does not have: a checksum of each tensor by its name


def write(
    path: Path, tensors: Mapping[str, Tensor], told: Mapping[str, object], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors of any device with their checksums, rows of pixels first, as every reader expects.

    Args:
        told: what `read_told` returns of the file.
        metadata: further texts, as other tools name them.

    Raises:
        OSError: the disk is full, or another failure to write; what was at `path` is unchanged.
    """
    sums = {name: checksum(tensor) for name, tensor in tensors.items()}
    write_tensors(path, tensors, {TOLD: describe_tensors(told, sums), **(metadata or {})})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors with metadata as other tools name them; see `write`."""
    layouts = {name: Layout(dtype_name(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(path, layouts, lambda name: bytes_of(tensors[name]), metadata)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, which a channels-last network has in another order than a file."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def describe_tensors(told: Mapping[str, object], sums: Mapping[str, int]) -> str:
    """Return the metadata with the checksum of each tensor by its name, and under the empty name that of the metadata."""
    return json.dumps({**told, CHECKSUMS: {"": zlib.crc32(json.dumps(told).encode()), **dict(sorted(sums.items()))}})


def checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's type, shape and numbers."""
    described = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if not tensor.numel():
        return described
    return zlib.crc32(bytes_of(tensor), described)


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, memory-mapped, and compared with their checksums if `write` wrote them.

    Raises:
        ValueError: it cannot be read, or is damaged.
    """
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors' own error class says what is wrong with the file
        raise ValueError(f"{path} cannot be read as a safetensors file ({error})") from error
    if known := read_checksums(path):
        for name in sorted({*tensors, *known} - {""}):
            check_tensor(path, name, tensors.get(name), known)
    return tensors


def read_checksums(path: Path) -> dict[str, int]:
    """Return the checksums that `write` wrote, for a file of which tensors are read one by one; without one, nothing.

    Raises:
        ValueError: it cannot be read.
    """
    known = _text(path, TOLD).get(CHECKSUMS, {})
    return known if isinstance(known, dict) else {}


def check_tensor(path: Path, name: str, tensor: Tensor | None, known: Mapping[str, int]) -> None:
    """Raise if a tensor of a file is not as it was written.

    Raises:
        ValueError: it is not.
    """
    if tensor is None or known.get(name) != checksum(tensor):
        raise ValueError(
            f"{path} is damaged, or was changed by another program: {name} in it does not have its checksum; "
            "write the file again, or restore it"
        )


def check_file(path: Path) -> None:
    """Raise if a file that another library will load is not as it was written; one without checksums is not read.

    Raises:
        ValueError: it cannot be read, or is damaged.
    """
    read_told(path)
    if known := read_checksums(path):
        with safe_open(path, "pt") as file:
            stored = set(file.keys())
            for name in sorted({*stored, *known} - {""}):
                check_tensor(path, name, file.get_tensor(name) if name in stored else None, known)


def read_told(path: Path, key: str = TOLD) -> dict[str, Any]:
    """What `write` was told of the tensors, or another tool under its key; nothing where the file has no such text.

    Raises:
        ValueError: it cannot be read, or is damaged.
    """
    told = _text(path, key)
    known = told.pop(CHECKSUMS, None) if key == TOLD else None
    if isinstance(known, dict) and known.get("") != zlib.crc32(json.dumps(told).encode()):
        raise ValueError(f"{path} is damaged: its metadata does not have its checksum; write the file again, or restore it")
    return told


def _text(path: Path, key: str) -> dict[str, Any]:
    """The metadata under a key.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            told = parse_json((file.metadata() or {}).get(key, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a safetensors file ({error})") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path} holds, beside its tensors, {key} that is no mapping of settings")
    return told
