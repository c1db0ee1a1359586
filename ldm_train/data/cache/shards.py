"""Rows of tensors in files: sorted by name, the first bits of a name choose the file, so files depend on the names alone."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ldm_train.data.cache.manifest import Shard, file_digest
from ldm_train.util.safe_json import parse_json
from ldm_train.util.safetensors_file import TensorLayout, write_safetensors

SHARD_BYTES = 256 * 2**20
Rows = dict[str, Tensor]


def split(names: Sequence[str], row_bytes: int, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Sorted hexadecimal names to files of about `SHARD_BYTES`, each with its part of the names."""
    bits = 0
    while len(names) * row_bytes > SHARD_BYTES << bits:
        bits += 1

    def number(name: str) -> int:
        return int(name[:8], 16) >> (32 - bits)

    for shard, part in groupby(names, number):
        yield f"{prefix}-{shard:05d}.safetensors", list(part)


def write_shard(path: Path, names: Sequence[str], fetch: Callable[[str], Rows], *, statistics: bool) -> Shard:
    """The rows of these names as one file; with `statistics`, of "mean" (rows, V, C, H, W) per channel."""
    rows = [fetch(name) for name in names]
    stacked = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    save(stacked, path)
    mean, std = channel_statistics(stacked["mean"]) if statistics else ([], [])
    return Shard(len(names), file_digest(path), mean, std)


def channel_statistics(values: Tensor) -> tuple[list[float], list[float]]:
    """Mean and deviation per channel of (rows, V, C, H, W), to nine digits: the same for any number of threads."""
    exact = values.double().numpy()
    axes = (0, 1, 3, 4)
    mean, std = exact.mean(axes), exact.std(axes)
    return [float(f"{v:.9g}") for v in mean], [float(f"{v:.9g}") for v in std]


def pooled_statistics(shards: Sequence[Shard]) -> tuple[list[float], list[float]]:
    """Mean and deviation per channel of shards of latents of any shapes, each row counting alike."""
    counts = torch.tensor([[float(shard.rows)] for shard in shards], dtype=torch.float64)
    means = torch.tensor([shard.mean for shard in shards], dtype=torch.float64)
    squares = means.square() + torch.tensor([shard.std for shard in shards], dtype=torch.float64).square()
    share = counts / counts.sum()
    mean = (share * means).sum(0)
    std = ((share * squares).sum(0) - mean.square()).clamp(min=0).sqrt()
    return [float(f"{v:.8g}") for v in mean.tolist()], [float(f"{v:.8g}") for v in std.tolist()]


def save(tensors: Rows, path: Path, *, told: Mapping[str, object] | None = None) -> None:
    """Write tensors on the CPU atomically, with values next to them as JSON.

    Raises:
        OSError: the disk is full, or another failure to write; what was at `path` is unchanged.
    """
    write_safetensors(
        path,
        {name: TensorLayout(str(tensor.dtype).removeprefix("torch."), tensor.shape) for name, tensor in tensors.items()},
        lambda name: tensors[name].contiguous().flatten().view(torch.uint8).numpy().data,
        None if told is None else {"told": json.dumps(told)},
    )


def load(path: Path) -> Rows:
    """Tensors of a file, memory-mapped.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return load_file(path)
    except Exception as error:  # safetensors' own error class says what is wrong with the file
        raise ValueError(f"{path} cannot be read ({error}); encode it again") from error


def told_in(path: Path) -> dict[str, Any]:
    """What `save` was told to put beside the tensors.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            return dict(parse_json(file.metadata()["told"]))  # type: ignore[arg-type]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
