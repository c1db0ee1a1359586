"""Named tensors in a safetensors file that is whole or absent, with what is told of them beside."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ldm_train.util.safetensors_file import Layout, write_safetensors

TOLD = "ldm_train"  # one key, because safetensors writes several in another order each time


def write(path: Path, tensors: Mapping[str, Tensor], told: Mapping[str, object]) -> None:
    """Write tensors of any device, rows of pixels first, as every reader expects.

    Raises:
        OSError: the disk is full, or another failure to write; what was at `path` is unchanged.
    """
    write_tensors(path, tensors, {TOLD: json.dumps(told)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors with metadata as other tools name them; see `write`."""
    layouts = {name: Layout(dtype_name(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(path, layouts, lambda name: bytes_of(tensors[name]), metadata)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, which a channels-last network has in another order than a file."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


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
            told = json.loads((file.metadata() or {}).get(key, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a safetensors file ({error})") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path} holds, beside its tensors, {key} that is no mapping of settings")
    return told
