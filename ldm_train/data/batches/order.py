"""The order of examples: which of them make the batch of a step, computed from (seed, step) alone, one bucket a batch.

Each bucket is an endless sequence of draws, which its data sets take turns to give; cut into batches, those take turns with
the other buckets'. Of a source with rate m, round r has floor((r + 1) m) - floor(r m) turns: what is left over carries on.
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
    """Examples of one data set in one bucket, (n,), and how many of them an epoch draws; each is drawn equally often."""

    examples: Tensor
    per_epoch: int | Fraction


class Turns:
    """An endless sequence of turns among sources, as many of each in every round as its rate says, in random order."""

    def __init__(self, rates: Sequence[int | Fraction], *, seed: int, stream: str) -> None:
        exact = [Fraction(rate) for rate in rates]
        self.unit = math.lcm(*(rate.denominator for rate in exact))
        self.rates = [int(rate * self.unit) for rate in exact]  # whole numbers are exact, and fast
        self.seed = seed
        self.stream = stream
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __call__(self, number: int) -> tuple[int, int]:
        """Whose turn it is, and how many turns that source had before."""
        if len(self.rates) == 1:
            return 0, number
        # The floors take less than one turn of each source from number = round * rates.
        first, last = (count * self.unit // sum(self.rates) for count in (number, number + len(self.rates)))
        rounds = range(first, last + 2)
        turn = rounds[bisect_right(rounds, number, key=lambda turn: sum(self._before(turn))) - 1]
        before = self._before(turn)
        counts = [after - b for after, b in zip(self._before(turn + 1), before, strict=True)]
        if self._order[0] != turn:
            self._order = turn, draws.permutation(self.seed, self.stream, turn, sum(counts))
        place = int(self._order[1][number - sum(before)])
        for source, count in enumerate(counts):
            if place < count:
                return source, before[source] + place
            place -= count
        raise AssertionError("a turn lies in its round")

    def _before(self, turn: int) -> list[int]:
        """Turns of each source before a round."""
        return [turn * rate // self.unit for rate in self.rates]


class Order:
    """Which examples stand at each position of an endless run.

    Args:
        buckets: each one's name and pools.
        batch_size: the global batch.
    """

    def __init__(self, buckets: Sequence[tuple[str, Sequence[Pool]]], *, batch_size: int, seed: int) -> None:
        self.buckets = [_Bucket(name, pools, seed) for name, pools in buckets]
        self.batch_size = batch_size
        rates = [bucket.per_epoch / Fraction(batch_size) for bucket in self.buckets]
        self.batch = Turns(rates, seed=seed, stream="order of batches")

    def __call__(self, positions: Tensor) -> Tensor:
        """The examples at positions (B,) of the run."""
        examples = torch.empty_like(positions)
        steps = positions // self.batch_size
        for step in steps.unique().tolist():
            mask = steps == step
            bucket, batch = self.batch(step)
            examples[mask] = self.buckets[bucket](batch * self.batch_size + positions[mask] % self.batch_size)
        return examples


class _Bucket:
    """One bucket's endless draws, in which its pools take turns; each gives its examples in an order of its own."""

    def __init__(self, name: str, pools: Sequence[Pool], seed: int) -> None:
        self.pools = pools
        self.per_epoch = sum((Fraction(pool.per_epoch) for pool in pools), Fraction())
        self.turns = Turns([pool.per_epoch for pool in pools], seed=seed, stream=f"order {name}")
        self.orders = [draws.Shuffle(seed, f"order {name} {i}", len(pool.examples)) for i, pool in enumerate(pools)]

    def __call__(self, numbers: Tensor) -> Tensor:
        """The examples that are the draws of these numbers, (B,)."""
        if len(self.pools) == 1:
            return self.pools[0].examples[self.orders[0](numbers)]
        turns = torch.tensor([self.turns(number) for number in numbers.tolist()])
        examples = torch.empty_like(numbers)
        for number, (pool, order) in enumerate(zip(self.pools, self.orders, strict=True)):
            mask = turns[:, 0] == number
            examples[mask] = pool.examples[order(turns[mask, 1])]
        return examples
