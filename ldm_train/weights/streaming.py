"""A safetensors file written tensor by tensor: at no time is more than one of them in memory twice."""

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Size, Tensor

from ldm_train.weights.files import cannot_write

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def stream(
    path: Path,
    shapes: Mapping[str, Size],
    make: Callable[[str], Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors of these names and shapes, in the order of their names, under a temporary name until all are there.

    Args:
        make: a tensor by its name, called once for each, when it is written.
        dtype: of what is written: float32, float16 or bfloat16.

    Raises:
        ValueError: a tensor of another shape than was said.
        OSError: the disk is full, or the like; what was there stays.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    names, end = sorted(shapes), 0
    for name in names:
        start, end = end, end + shapes[name].numel() * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8 bytes, as readers expect
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f"{path.name}.writing")
    try:
        with writing.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                tensor = make(name).detach().to("cpu", dtype).contiguous()
                if tensor.shape != shapes[name]:
                    raise ValueError(f"{name} is {tuple(tensor.shape)}, and was to be {tuple(shapes[name])}")
                file.write(tensor.flatten().view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        writing.replace(path)
    except OSError as error:
        writing.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    except BaseException:
        writing.unlink(missing_ok=True)
        raise
