"""The order of examples: which of them make the batch of a step, computed from (seed, step) alone, one bucket a batch.

Each bucket is an endless sequence of draws, cut into batches; in epoch e it gives floor((e+1) m/B) - floor(e m/B) of them,
for its m draws an epoch, so that its remainder carries into the next. An epoch's batches of all buckets are shuffled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train import draws


@dataclass(frozen=True)
class Pool:
    """Examples of one data set in one bucket, (n,), and how many of them an epoch draws; each is drawn equally often."""

    examples: Tensor
    per_epoch: int


class Order:
    """Which examples stand at each position of an endless run.

    Args:
        buckets: each one's name and pools.
        batch_size: the global batch.
    """

    def __init__(self, buckets: Sequence[tuple[str, Sequence[Pool]]], *, batch_size: int, seed: int) -> None:
        self.buckets = [_Bucket(name, pools, seed) for name, pools in buckets]
        self.batch_size = batch_size
        self.seed = seed

    def __call__(self, positions: Tensor) -> Tensor:
        """The examples at positions (B,) of the run."""
        examples = torch.empty_like(positions)
        steps = positions // self.batch_size
        for step in steps.unique().tolist():
            mask = steps == step
            bucket, batch = self.batch(step)
            examples[mask] = self.buckets[bucket](batch * self.batch_size + positions[mask] % self.batch_size)
        return examples

    def batch(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and which of its batches."""
        if len(self.buckets) == 1:
            return 0, step
        epoch = step * self.batch_size // sum(bucket.per_epoch for bucket in self.buckets)
        while sum(self._before(epoch)) > step:
            epoch -= 1
        while sum(self._before(epoch + 1)) <= step:
            epoch += 1
        before = self._before(epoch)
        counts = [after - b for after, b in zip(self._before(epoch + 1), before, strict=True)]
        order = draws.permutation(self.seed, "order of batches", epoch, sum(counts))
        place = int(order[step - sum(before)])
        for bucket, count in enumerate(counts):
            if place < count:
                return bucket, before[bucket] + place
            place -= count
        raise AssertionError("a step lies in its epoch")

    def _before(self, epoch: int) -> list[int]:
        """Batches of each bucket before an epoch."""
        return [epoch * bucket.per_epoch // self.batch_size for bucket in self.buckets]


class _Bucket:
    """One bucket's endless draws: its pools take turns at random, and each gives its examples in an order of its own."""

    def __init__(self, name: str, pools: Sequence[Pool], seed: int) -> None:
        self.pools = pools
        self.per_epoch = sum(pool.per_epoch for pool in pools)
        self.turns = draws.Shuffle(seed, f"order {name}", self.per_epoch)
        self.orders = [draws.Shuffle(seed, f"order {name} {i}", len(pool.examples)) for i, pool in enumerate(pools)]

    def __call__(self, numbers: Tensor) -> Tensor:
        """The examples that are the draws of these numbers, (B,)."""
        if len(self.pools) == 1:
            return self.pools[0].examples[self.orders[0](numbers)]
        turns, examples, start = self.turns(numbers), torch.empty_like(numbers), 0
        for pool, order in zip(self.pools, self.orders, strict=True):
            mask = (turns >= start) & (turns < start + pool.per_epoch)
            own = numbers[mask] // self.per_epoch * pool.per_epoch + turns[mask] - start
            examples[mask] = pool.examples[order(own)]
            start += pool.per_epoch
        return examples
