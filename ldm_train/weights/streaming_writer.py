"""A safetensors file written tensor by tensor: at no time is more than one of them in memory twice."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Size, Tensor

from ldm_train.util.safetensors_file import Layout, write_safetensors
from ldm_train.weights.tensor_files import bytes_of, dtype_name


def stream(
    path: Path,
    shapes: Mapping[str, Size],
    make: Callable[[str], Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors of these names and shapes, in the order of their names; atomically.

    Args:
        make: a tensor by its name, called once for each, when it is written.
        dtype: of what is written: float32, float16 or bfloat16.

    Raises:
        ValueError: a tensor of another shape than was said.
        OSError: the disk is full, or the like; what was there stays.
    """
    layouts = {name: Layout(dtype_name(dtype), shape) for name, shape in shapes.items()}

    def content(name: str) -> memoryview:
        tensor = make(name).detach().to("cpu", dtype)
        if tensor.shape != shapes[name]:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, and was to be {tuple(shapes[name])}")
        return bytes_of(tensor)

    write_safetensors(path, layouts, content, metadata)
