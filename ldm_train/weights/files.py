"""Named tensors in a safetensors file that is whole or absent, with what is told of them beside."""

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

TOLD = "ldm_train"  # one key, because safetensors writes several in another order each time
CHECKSUMS = "crc32"  # what safetensors itself does not have: a checksum of each tensor by its name


def write(path: Path, tensors: Mapping[str, Tensor], told: Mapping[str, object]) -> None:
    """Tensors on the CPU, flushed to the disk under a temporary name that becomes the right one when all is there.

    Raises:
        OSError: the disk is full, or the like; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f"{path.name}.writing")
    try:
        # Rows of pixels first, as every reader expects: a channels-last network's are not.
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, writing, metadata={TOLD: json.dumps({**told, CHECKSUMS: checksums(contiguous, told)})})
        writing.chmod(0o644)  # safetensors' own are for their owner alone
        with writing.open("rb") as file:
            os.fsync(file.fileno())
        writing.replace(path)
    except (SafetensorError, OSError) as error:
        writing.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> OSError:
    free = shutil.disk_usage(path.parent).free / 2**20
    return OSError(f"cannot write {path} ({free:.0f} MiB are free there): {error}")


def checksums(tensors: Mapping[str, Tensor], told: Mapping[str, object]) -> dict[str, int]:
    """Return the CRC-32 of each tensor by its name, and under the empty name that of the metadata."""
    found = {name: checksum(tensor) for name, tensor in tensors.items()}
    return {"": zlib.crc32(json.dumps(told).encode()), **found}


def checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's type, shape and numbers."""
    described = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if not tensor.numel():
        return described
    return zlib.crc32(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data, described)


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
            refuse_damaged(path, name, tensors.get(name), known)
    return tensors


def read_checksums(path: Path) -> dict[str, int]:
    """Return the checksums that `write` wrote, for a file of which tensors are read one by one; without one, nothing.

    Raises:
        ValueError: it cannot be read.
    """
    known = _text(path, TOLD).get(CHECKSUMS, {})
    return known if isinstance(known, dict) else {}


def refuse_damaged(path: Path, name: str, tensor: Tensor | None, known: Mapping[str, int]) -> None:
    """Raise if a tensor of a file is not as it was written.

    Raises:
        ValueError: it is not.
    """
    if tensor is None or known.get(name) != checksum(tensor):
        raise ValueError(f"{path} is damaged: {name} in it does not have its checksum; write the file again, or restore it")


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
            told = json.loads((file.metadata() or {}).get(key, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a safetensors file ({error})") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path} holds, beside its tensors, {key} that is no mapping of settings")
    return told
