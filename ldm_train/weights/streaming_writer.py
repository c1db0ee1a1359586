"""A safetensors file written tensor by tensor: at no time is more than one of them in memory twice.

The checksums in its header are known when all tensors are written; room is left for them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Size, Tensor

from ldm_train.util.safetensors_file import Layout, write_safetensors
from ldm_train.weights.tensor_files import TOLD, bytes_of, checksum, describe_tensors, dtype_name

LARGEST = 2**32 - 1  # no checksum has more digits


def stream(
    path: Path,
    shapes: Mapping[str, Size],
    make: Callable[[str], Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    told: Mapping[str, object] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors of these names and shapes, in the order of their names; atomically.

    Args:
        make: a tensor by its name, called once for each, when it is written.
        dtype: of what is written: float32, float16 or bfloat16.
        told: what `read_told` returns of the file.
        metadata: further texts, as other tools name them.

    Raises:
        ValueError: a tensor of another shape than was said.
        OSError: the disk is full, or the like; what was there stays.
    """
    layouts = {name: Layout(dtype_name(dtype), shape) for name, shape in shapes.items()}
    sums = dict.fromkeys(shapes, LARGEST)

    def describe() -> dict[str, str]:
        text = describe_tensors(told or {}, sums)
        room = describe_tensors(told or {}, dict.fromkeys(shapes, LARGEST))
        return {TOLD: text.ljust(len(room)), **(metadata or {})}

    def content(name: str) -> memoryview:
        tensor = make(name).detach().to("cpu", dtype)
        if tensor.shape != shapes[name]:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, and was to be {tuple(shapes[name])}")
        sums[name] = checksum(tensor)
        return bytes_of(tensor)

    write_safetensors(path, layouts, content, describe(), final_metadata=describe)
