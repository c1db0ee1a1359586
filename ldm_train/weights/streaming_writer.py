"""Write a safetensors file tensor by tensor, so that at most one tensor is in memory twice.

The checksums in the file's header are only known at the end, so the header is written with room for them and replaced.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Size, Tensor

from ldm_train.util.safetensors_file import TensorLayout, format_dtype, get_bytes, write_safetensors
from ldm_train.weights.tensor_files import METADATA_KEY, compute_checksum, format_metadata

LARGEST_CHECKSUM = 2**32 - 1  # no checksum has more digits


def stream_tensors(
    path: Path,
    shapes: Mapping[str, Size],
    make: Callable[[str], Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, object] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write tensors of these names and shapes in the order of their names, atomically.

    Args:
        make: returns a tensor by its name; called once for each, when it is written.
        dtype: type that the tensors are written in: float32, float16 or bfloat16.
        metadata: JSON values, which `read_metadata` returns.
        texts: further metadata under the keys of other tools.

    Raises:
        ValueError: `make` returned a tensor of another shape.
        OSError: the disk is full, or another failure to write; what was at `path` is unchanged.
    """
    layouts = {name: TensorLayout(format_dtype(dtype), shape) for name, shape in shapes.items()}
    checksums = dict.fromkeys(shapes, LARGEST_CHECKSUM)
    room = len(format_metadata(metadata or {}, checksums))

    def describe() -> dict[str, str]:
        return {METADATA_KEY: format_metadata(metadata or {}, checksums).ljust(room), **(texts or {})}

    def content(name: str) -> memoryview:
        tensor = make(name).detach().to("cpu", dtype)
        if tensor.shape != shapes[name]:
            raise ValueError(f"{name} has the shape {tuple(tensor.shape)}; expected {tuple(shapes[name])}")
        checksums[name] = compute_checksum(tensor)
        return get_bytes(tensor)

    write_safetensors(path, layouts, content, describe(), final_metadata=describe)
