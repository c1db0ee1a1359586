"""Which examples make up the batch of a step, computed from (seed, step) alone.

Two levels of fair interleaving, each without stored state:
1. Within a bucket, data sets alternate in proportion to their shares.
2. Across buckets, whole batches alternate in proportion to the buckets' sizes, so that a batch has one shape.

Fairness with fractional rates: in round r, a source with rate m gets floor((r + 1) * m) - floor(r * m) turns, so remainders
carry over to later rounds and the long-run share is exact.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ldm_train import draws


@dataclass(frozen=True)
class Pool:
    """Examples (n,) of one data set in one bucket, and how many draws an epoch makes from them, each equally often."""

    examples: Tensor
    per_epoch: int | Fraction


class Interleaving:
    """An endless sequence of sources: in every round each source occurs as often as its rate says, in random order."""

    def __init__(self, rates: Sequence[int | Fraction], *, seed: int, stream: str) -> None:
        exact = [Fraction(rate) for rate in rates]
        self.unit = math.lcm(*(rate.denominator for rate in exact))
        self.rates = [int(rate * self.unit) for rate in exact]  # whole numbers are exact and fast
        self.seed = seed
        self.stream = stream
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __call__(self, position: int) -> tuple[int, int]:
        """Return the source at a position of the sequence, and how often it occurred before."""
        if len(self.rates) == 1:
            return 0, position
        # Rounding each source down shifts positions by less than one turn of each source: the guess is at most that far off.
        first, last = (count * self.unit // sum(self.rates) for count in (position, position + len(self.rates)))
        rounds = range(first, last + 2)
        current = rounds[bisect_right(rounds, position, key=lambda candidate: sum(self._before(candidate))) - 1]
        before = self._before(current)
        counts = [after - b for after, b in zip(self._before(current + 1), before, strict=True)]
        if self._order[0] != current:
            self._order = current, draws.permutation(self.seed, self.stream, current, sum(counts))
        place = int(self._order[1][position - sum(before)])
        for source, count in enumerate(counts):
            if place < count:
                return source, before[source] + place
            place -= count
        raise AssertionError("a position lies in its round")

    def _before(self, number: int) -> list[int]:
        """Return how often each source occurs before a round."""
        return [number * rate // self.unit for rate in self.rates]


class ExampleOrder:
    """The examples at each position of an endless run.

    Args:
        buckets: each bucket's name and pools.
        batch_size: the global batch.
    """

    def __init__(self, buckets: Sequence[tuple[str, Sequence[Pool]]], *, batch_size: int, seed: int) -> None:
        self.buckets = [_Bucket(name, pools, seed) for name, pools in buckets]
        self.batch_size = batch_size
        rates = [bucket.per_epoch / Fraction(batch_size) for bucket in self.buckets]
        self.batch = Interleaving(rates, seed=seed, stream="order of batches")

    def __call__(self, positions: Tensor) -> Tensor:
        """Return the examples at positions (B,) of the run."""
        examples = torch.empty_like(positions)
        steps = positions // self.batch_size
        for step in steps.unique().tolist():
            mask = steps == step
            bucket, batch = self.batch(step)
            examples[mask] = self.buckets[bucket](batch * self.batch_size + positions[mask] % self.batch_size)
        return examples


class _Bucket:
    """The endless draws of one bucket, interleaved from its pools, each of which is shuffled separately."""

    def __init__(self, name: str, pools: Sequence[Pool], seed: int) -> None:
        self.pools = pools
        self.per_epoch = sum((Fraction(pool.per_epoch) for pool in pools), Fraction())
        self.turns = Interleaving([pool.per_epoch for pool in pools], seed=seed, stream=f"order {name}")
        self.orders = [draws.Shuffle(seed, f"order {name} {i}", len(pool.examples)) for i, pool in enumerate(pools)]

    def __call__(self, numbers: Tensor) -> Tensor:
        """Return the examples that are drawn at positions (B,) of the bucket."""
        if len(self.pools) == 1:
            return self.pools[0].examples[self.orders[0](numbers)]
        turns = torch.tensor([self.turns(number) for number in numbers.tolist()])
        examples = torch.empty_like(numbers)
        for number, (pool, order) in enumerate(zip(self.pools, self.orders, strict=True)):
            mask = turns[:, 0] == number
            examples[mask] = pool.examples[order(turns[mask, 1])]
        return examples
