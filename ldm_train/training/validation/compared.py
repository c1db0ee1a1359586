"""Which examples drawn pictures are compared with, and how that work is shared among the ranks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.metrics.sets import LEAST

ENOUGH = 16  # held-out pictures, from which on training pictures are left out of it
PORTION = 16  # pictures at once, on any number of ranks, so that the same pictures are always computed together


@dataclass(frozen=True)
class Compared:
    """Examples whose captions are drawn, and whose pictures the drawn ones are compared with; N of them.

    Args:
        portions: their numbers among the data's, of one shape each.
        sizes: (height, width) of each portion's pictures, pixels.
        captions: the first one of each, N in the portions' order.
        backgrounds: the `background` that the source names of each, if it does.
        held_out: whether training never sees them.
    """

    portions: Sequence[Tensor]
    sizes: Sequence[tuple[int, int]]
    captions: list[str]
    backgrounds: list[str | None]
    held_out: bool

    @property
    def examples(self) -> Tensor:
        return torch.cat(list(self.portions))

    @property
    def starts(self) -> list[int]:
        """The place of each portion's first example among the N."""
        return [0, *torch.tensor([len(portion) for portion in self.portions]).cumsum(0).tolist()[:-1]]

    def captions_of(self, number: int) -> list[str]:
        """Of one portion."""
        start = self.starts[number]
        return self.captions[start : start + len(self.portions[number])]


def choose(data: CachedLatents, count: int, *, factor: int) -> Compared | None:
    """Up to `count` held-out examples, evenly spread; training examples where fewer than `ENOUGH` are held out.

    Args:
        factor: the autoencoder's, by which pictures are larger than latents.

    Returns:
        None where there are too few to compare.
    """
    held_out = len(data.held_out) >= min(ENOUGH, count)
    pool = data.held_out if held_out else torch.cat(data.train)
    chosen = pool[torch.arange(min(count, len(pool))) * len(pool) // min(count, len(pool))]
    if len(chosen) < LEAST:
        return None
    portions: list[Tensor] = []
    sizes: list[tuple[int, int]] = []
    buckets = data.latents.index.bucket[chosen]
    for bucket in buckets.unique():
        own = [data.available(part) for part in chosen[buckets == bucket].split(PORTION)]
        height, width = data.latents.moments(own[0][:1], torch.zeros(1, dtype=torch.int64)).mean.shape[2:]
        portions += own
        sizes += [(height * factor, width * factor)] * len(own)
    examples = torch.cat(portions)
    captions = [data.latents.first_caption(example) for example in examples.tolist()]
    backgrounds = [fields.get("background") for fields in data.latents.fields(examples)]
    return Compared(portions, sizes, captions, backgrounds, held_out)


def over_ranks(
    compared: Compared,
    sizes: Mapping[str, int],
    compute: Callable[[int], Mapping[str, Tensor]],
    trainer: pl.Trainer,
) -> dict[str, Tensor]:
    """What `compute` gives of every portion by its number, (n, size) by name: on every rank whole, (N, size), on the CPU.

    Each rank computes its part. Sharded parameters need every rank at every forward pass, so one without a portion of its
    own computes another's.
    """
    device, count = trainer.strategy.root_device, len(compared.captions)
    whole = {name: torch.zeros(count, size, device=device) for name, size in sizes.items()}
    for first in range(0, len(compared.portions), trainer.world_size):
        own = first + trainer.global_rank
        found = compute(own if own < len(compared.portions) else first)
        if own < len(compared.portions):
            start = compared.starts[own]
            for name, rows in found.items():
                whole[name][start : start + len(rows)] = rows
    for table in whole.values() if trainer.world_size > 1 else ():
        torch.distributed.all_reduce(table)  # every row is zero but on one rank, so the sum is that row
    return {name: table.cpu() for name, table in whole.items()}


def say(trainer: pl.Trainer, words: str) -> None:
    """Once, whatever the number of ranks."""
    if trainer.is_global_zero:
        print(words)
