"""Named tensors in a safetensors file that is whole or absent, with what is told of them beside."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm_train.util.safe_json import parse_json

TOLD = "ldm_train"  # one key, because safetensors writes several in another order each time


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
        save_file(contiguous, writing, metadata={TOLD: json.dumps(told)})
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


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, memory-mapped.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return load_file(path)
    except Exception as error:  # safetensors' own error class says what is wrong with the file
        raise ValueError(f"{path} cannot be read as a safetensors file ({error})") from error


def read_told(path: Path, key: str = TOLD) -> dict[str, Any]:
    """What `write` was told of the tensors, or another tool under its key; nothing where the file has no such text.

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
