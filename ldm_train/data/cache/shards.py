"""Files of rows of tensors. Rows are sorted by name, and the first bits of a name choose the file (shard)."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ldm_train.data.cache.manifest import Shard
from ldm_train.util.files import digest_file
from ldm_train.util.packed_columns import DigestColumn
from ldm_train.util.safe_json import parse_json
from ldm_train.util.safetensors_file import save_tensors

SHARD_BYTES = 256 * 2**20
STATISTICS_ROWS = 256  # that are in float64 at once, four times as large as stored
ROWS_METADATA_KEY = "rows"  # in the files' headers
Rows = dict[str, Tensor]


def split_into_shards(names: DigestColumn, row_bytes: int, prefix: str) -> Iterator[tuple[str, DigestColumn]]:
    """Yield the file names of shards of about `SHARD_BYTES`, each with its part of the sorted names."""
    bits = 0
    while len(names) * row_bytes > SHARD_BYTES << bits:
        bits += 1
    shards, starts = np.unique(names.first_bits() >> np.uint64(32 - bits), return_index=True)
    ends = [*starts.tolist()[1:], len(names)]
    for shard, start, end in zip(shards.tolist(), starts.tolist(), ends, strict=True):
        yield f"{prefix}-{shard:05d}.safetensors", names.part(start, end)


def write_shard(path: Path, names: Sequence[str], fetch: Callable[[str], Rows], *, statistics: bool) -> Shard:
    """Write the rows of these names to one file, and return its `Shard`.

    Args:
        fetch: returns a row's tensors by its name.
        statistics: whether to measure "mean" (rows, V, C, H, W) per channel.
    """
    stacked = {key: torch.empty(len(names), *row.shape, dtype=row.dtype) for key, row in fetch(names[0]).items()}
    for number, name in enumerate(names):  # one by one, since a list of views of rows would take more memory than small rows
        for key, row in fetch(name).items():
            stacked[key][number] = row
    save_rows(stacked, path)
    mean, std = channel_statistics(stacked["mean"]) if statistics else ([], [])
    return Shard(len(names), digest_file(path), mean, std)


def channel_statistics(values: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and deviation per channel of (rows, V, C, H, W), with nine digits, which no number of threads changes."""
    count = values.numel() // values.shape[2]
    axes = (0, 1, 3, 4)

    def blocks() -> Iterator[NDArray[np.float64]]:
        return (part.double().numpy() for part in values.split(STATISTICS_ROWS))

    mean = np.sum([block.sum(axes) for block in blocks()], axis=0) / count
    centre = mean.reshape(-1, 1, 1)
    std = np.sqrt(np.sum([np.square(block - centre).sum(axes) for block in blocks()], axis=0) / count)
    return [float(f"{v:.9g}") for v in mean], [float(f"{v:.9g}") for v in std]


def pooled_statistics(shards: Sequence[Shard]) -> tuple[list[float], list[float]]:
    """Return mean and deviation per channel over shards of latents of different shapes; each row has the same weight."""
    counts = torch.tensor([[float(shard.rows)] for shard in shards], dtype=torch.float64)
    means = torch.tensor([shard.mean for shard in shards], dtype=torch.float64)
    squares = means.square() + torch.tensor([shard.std for shard in shards], dtype=torch.float64).square()
    share = counts / counts.sum()
    mean = (share * means).sum(0)
    std = ((share * squares).sum(0) - mean.square()).clamp(min=0).sqrt()
    return [float(f"{v:.8g}") for v in mean.tolist()], [float(f"{v:.8g}") for v in std.tolist()]


def save_rows(tensors: Rows, path: Path, *, metadata: Mapping[str, object] | None = None) -> None:
    """Write tensors atomically, with metadata as JSON.

    Raises:
        OSError: the disk is full, or another failure to write; what was at `path` is unchanged.
    """
    save_tensors(path, tensors, None if metadata is None else {ROWS_METADATA_KEY: json.dumps(metadata)})


def load_rows(path: Path) -> Rows:
    """Return the tensors of a file, memory-mapped.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        return load_file(path)
    except Exception as error:  # safetensors has an error class of its own
        raise ValueError(f"{path} cannot be read ({error}); encode it again") from error


def read_row_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that `save_rows` wrote.

    Raises:
        ValueError: the file or its metadata cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            return dict(parse_json(file.metadata()[ROWS_METADATA_KEY]))  # type: ignore[arg-type]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
