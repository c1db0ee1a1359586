"""Write the safetensors format with the bytes of its own library, which leaves a temporary file of a random name at a kill.

The header is JSON after its length; the tensors' bytes follow, the widest types first, then by name.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ldm_train.util.files import atomic_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ORDER = ("bool", "uint8", "int8", "int16", "float16", "bfloat16", "int32", "float32", "float64", "int64")
CODES = dict(zip(ORDER, ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64"), strict=True))
WIDTHS = dict(zip(ORDER, (1, 1, 1, 2, 2, 2, 4, 4, 8, 8), strict=True))  # bytes


@dataclass(frozen=True)
class TensorLayout:
    """A tensor's type, by torch's name for it such as "float32", and its shape."""

    dtype: str
    shape: Sequence[int]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * WIDTHS[self.dtype]


def save_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors of any device and memory layout; see `write_safetensors`."""
    layouts = {name: TensorLayout(format_dtype(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(path, layouts, lambda name: get_bytes(tensors[name]), metadata)


def format_dtype(dtype: "torch.dtype") -> str:
    """Return torch's name of a type, such as "float32"."""
    return str(dtype).removeprefix("torch.")


def get_bytes(tensor: "Tensor") -> memoryview:
    """Return a tensor's bytes in a file's order, also of a tensor in channels-last memory format."""
    import torch

    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def write_safetensors(
    path: Path,
    layouts: Mapping[str, TensorLayout],
    content: Callable[[str], memoryview],
    metadata: Mapping[str, str] | None = None,
    *,
    final_metadata: Callable[[], Mapping[str, str]] | None = None,
) -> None:
    """Write a file atomically, one tensor after another.

    Args:
        content: returns the bytes of a tensor by its name; called once for each, when it is written.
        final_metadata: returns what replaces `metadata`, of the same length, once all tensors are written: their checksums.

    Raises:
        OSError: the disk is full, or another failure to write; what was at `path` is unchanged.
    """
    names = sorted(layouts, key=lambda name: (-ORDER.index(layouts[name].dtype), name))
    entries: dict[str, object] = {}
    end = 0
    for name in names:
        start, end = end, end + layouts[name].size
        entries[name] = {
            "dtype": CODES[layouts[name].dtype],
            "shape": list(layouts[name].shape),
            "data_offsets": [start, end],
        }
    header = _header(entries, metadata)
    with atomic_file(path) as file:
        file.write(header)
        for name in names:
            file.write(content(name))
        if final_metadata:
            final = _header(entries, final_metadata())
            assert len(final) == len(header)
            file.seek(0)
            file.write(final)


def _header(entries: Mapping[str, object], metadata: Mapping[str, str] | None) -> bytes:
    content = {"__metadata__": dict(metadata), **entries} if metadata else entries
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8 bytes, as readers expect
    return struct.pack("<Q", len(text)) + text
