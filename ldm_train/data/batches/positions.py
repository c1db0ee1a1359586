"""Divide a run's positions into batches: a function of the step, so nothing is stored and resuming is exact."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class BatchGeometry:
    """How a global batch is divided: position = step * batch_size + slot, with slots ordered by (micro-batch, rank, row)."""

    batch_size: int
    world_size: int = 1
    rank: int = 0
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        share = self.micro_batch_size or self.batch_size // self.world_size
        if share < 1 or self.batch_size % (share * self.world_size):
            unit = self.world_size * (self.micro_batch_size or 1)
            fits = range(unit, max(0, self.batch_size) + 3 * unit, unit)
            near = sorted(fits, key=lambda n: abs(n - self.batch_size))[:3]
            micro = f" and micro_batch_size={self.micro_batch_size}" if self.micro_batch_size else ""
            raise ValueError(
                f"batch_size={self.batch_size} is the global batch and cannot be divided among {self.world_size} "
                f"device(s){micro}; the nearest sizes that can: {', '.join(map(str, sorted(near)))}"
            )

    @property
    def rows(self) -> int:
        """Examples in one forward pass of one device."""
        return self.micro_batch_size or self.batch_size // self.world_size

    @property
    def accumulation(self) -> int:
        return self.batch_size // (self.rows * self.world_size)

    def positions(self, step: int) -> Iterator[Tensor]:
        """Yield the positions of this rank's micro-batches of one optimizer step, each (rows,) int64."""
        for micro in range(self.accumulation):
            start = step * self.batch_size + (micro * self.world_size + self.rank) * self.rows
            yield torch.arange(start, start + self.rows)


class RunPositions(Sampler[list[int]]):
    """A sampler of the micro-batches of an endless run, from the step that `first_step` returns when iteration starts."""

    def __init__(self, geometry: BatchGeometry, first_step: Callable[[], int]) -> None:
        self.geometry = geometry
        self.first_step = first_step

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step()
        while True:
            for positions in self.geometry.positions(step):
                yield positions.tolist()
            step += 1


class FetchByPosition(Dataset[Batch], Generic[Batch]):
    """A dataset that fetches all positions of a batch at once."""

    def __init__(self, fetch: Callable[[Tensor], Batch]) -> None:
        self.fetch = fetch

    def __getitems__(self, positions: list[int]) -> Batch:
        return self.fetch(torch.tensor(positions))


def build_endless_loader(
    fetch: Callable[[Tensor], Batch], geometry: BatchGeometry, first_step: Callable[[], int], *, workers: int = 0
) -> DataLoader[Batch]:
    """Return an endless loader of what `fetch` returns for each micro-batch's positions."""
    return DataLoader(
        FetchByPosition(fetch),
        batch_sampler=RunPositions(geometry, first_step),
        num_workers=workers,
        collate_fn=lambda batch: batch,
        pin_memory=torch.cuda.is_available(),
    )
