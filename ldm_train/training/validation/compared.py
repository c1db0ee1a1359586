"""Choose the examples with which drawn pictures are compared, and share the work among the ranks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.batches.holding_out import spread_evenly
from ldm_train.metrics.sets import MIN_PICTURES
from ldm_train.util.held_out_figures import ENOUGH
from ldm_train.util.messages import note

PORTION_SIZE = 16  # pictures of one call; fixed, so that their values do not depend on the number of ranks


@dataclass(frozen=True)
class ComparisonSet:
    """N examples whose captions are drawn, and with whose pictures the drawn ones are compared.

    Args:
        portions: the examples' numbers in the data; pictures of one portion have one shape.
        sizes: (height, width) of each portion's pictures, pixels.
        captions: the first caption of each example, N in the portions' order.
        fields: what the source says of each example, N.
        held_out: whether training never sees the examples.
    """

    portions: Sequence[Tensor]
    sizes: Sequence[tuple[int, int]]
    captions: list[str]
    fields: list[Mapping[str, str]]
    held_out: bool

    @property
    def examples(self) -> Tensor:
        """The numbers of all examples, (N,)."""
        return torch.cat(list(self.portions))

    @property
    def starts(self) -> list[int]:
        """The index of each portion's first example among the N."""
        return [0, *torch.tensor([len(portion) for portion in self.portions]).cumsum(0).tolist()[:-1]]

    def captions_of(self, number: int) -> list[str]:
        """Return the captions of one portion."""
        start = self.starts[number]
        return self.captions[start : start + len(self.portions[number])]


def choose_trained(data: CachedLatents, held_out: int, *, most: int | None = None) -> Tensor:
    """Return trained examples to compare with so many held-out ones: as many, but enough to measure something."""
    count = max(held_out, ENOUGH)
    return spread_evenly(data.trained, count if most is None else min(count, most))


def choose_comparisons(data: CachedLatents, count: int, *, factor: int) -> list[ComparisonSet]:
    """Choose up to `count` held-out examples and as many trained ones, evenly spread; no set of fewer than MIN_PICTURES.

    Args:
        factor: pixels per position of the latents.
    """
    held_out = spread_evenly(data.held_out, count)
    few = len(held_out) < MIN_PICTURES
    trained = choose_trained(data, count if few else len(held_out), most=count)
    pools = [(trained, False)] if few else [(held_out, True), (trained, False)]
    return [
        build_comparison(data, chosen, factor=factor, held_out=held_out)
        for chosen, held_out in pools
        if len(chosen) >= MIN_PICTURES
    ]


def build_comparison(data: CachedLatents, chosen: Tensor, *, factor: int, held_out: bool) -> ComparisonSet:
    """Return the set of these examples (N,), ordered by their shapes."""
    portions: list[Tensor] = []
    sizes: list[tuple[int, int]] = []
    buckets = data.latents.index.bucket[chosen]
    for bucket in buckets.unique():
        bucket_portions = [data.available(part) for part in chosen[buckets == bucket].split(PORTION_SIZE)]
        height, width = data.latents.moments(bucket_portions[0][:1], torch.zeros(1, dtype=torch.int64)).mean.shape[2:]
        portions += bucket_portions
        sizes += [(height * factor, width * factor)] * len(bucket_portions)
    examples = torch.cat(portions)
    captions = [data.latents.first_caption(example) for example in examples.tolist()]
    return ComparisonSet(portions, sizes, captions, list(data.latents.fields(examples)), held_out)


def compute_over_ranks(
    compared: ComparisonSet,
    sizes: Mapping[str, int],
    compute: Callable[[int], Mapping[str, Tensor]],
    trainer: pl.Trainer,
) -> dict[str, Tensor]:
    """Return what `compute` returns for every portion's number, (n, size) by name, joined as (N, size) on every rank's CPU.

    Each rank computes its portions. Sharded parameters need every rank at every forward pass, so a rank without a portion
    of its own computes another's and drops it.

    Args:
        sizes: size of each name's rows.
        compute: maps a portion's number to tensors (n, size) by name.
    """
    device, count = trainer.strategy.root_device, len(compared.captions)
    tables = {name: torch.zeros(count, size, device=device) for name, size in sizes.items()}
    for first in range(0, len(compared.portions), trainer.world_size):
        number = first + trainer.global_rank
        values = compute(number if number < len(compared.portions) else first)
        if number < len(compared.portions):
            start = compared.starts[number]
            for name, rows in values.items():
                tables[name][start : start + len(rows)] = rows
    for table in tables.values() if trainer.world_size > 1 else ():
        torch.distributed.all_reduce(table)  # a row is zero on all ranks but one, so the sum is that row
    return {name: table.cpu() for name, table in tables.items()}


def print_once(trainer: pl.Trainer, message: str) -> None:
    """Print once, on the first rank."""
    if trainer.is_global_zero:
        note(message)
