"""Randomness as a function: the same (seed, stream, position) gives the same numbers on any rank and after any resume.

A run draws nothing from the global generators. Each quantity has its own stream, named by a word, so switching one on does
not change the others. A position counts examples (or steps) from the start of the run.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def _hash(seed: int, stream: str, position: int) -> int:
    """Return 64 bits that depend only on these three."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def generator(seed: int, stream: str, position: int) -> torch.Generator:
    """Return a CPU generator whose state depends only on these three."""
    return torch.Generator().manual_seed(_hash(seed, stream, position) >> 1)


def _draw(draw: Callable[..., Tensor], seed: int, stream: str, positions: Tensor, shape: Sequence[int]) -> Tensor:
    # The dtype is explicit: with float64 as PyTorch's default, other numbers would be drawn.
    return torch.stack(
        [draw(tuple(shape), generator=generator(seed, stream, p), dtype=torch.float32) for p in positions.tolist()]
    )


def normal(seed: int, stream: str, positions: Tensor, shape: Sequence[int]) -> Tensor:
    """Return standard normal numbers, (B, *shape) for positions (B,), float32 on the CPU."""
    return _draw(torch.randn, seed, stream, positions, shape)


def uniform(seed: int, stream: str, positions: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """Return uniform numbers in [0, 1), (B, *shape) for positions (B,), float32 on the CPU.

    A single number for each position is made of its hash, which is faster than a generator.
    """
    if len(shape) > 0:
        return _draw(torch.rand, seed, stream, positions, shape)
    # float32 holds 24 bits exactly: with more, the largest number would round to 1.
    bits = [_hash(seed, stream, position) >> 40 for position in positions.tolist()]
    return torch.tensor(bits, dtype=torch.float32) / 2**24


def permutation(seed: int, stream: str, epoch: int, size: int) -> Tensor:
    """Return the order of `size` examples in one epoch, (size,) int64."""
    return torch.randperm(size, generator=generator(seed, stream, epoch))


class Shuffle:
    """Which of `size` examples stands at each position of an endless shuffled run: every epoch is another permutation.

    The permutations of the last two epochs are kept, because a batch may span two.
    """

    def __init__(self, seed: int, stream: str, size: int) -> None:
        self.seed = seed
        self.stream = stream
        self.size = size
        self._recent: dict[int, Tensor] = {}

    def __call__(self, positions: Tensor) -> Tensor:
        """Return the examples at positions (B,), (B,) int64."""
        epochs, places, chosen = positions // self.size, positions % self.size, torch.empty_like(positions)
        for epoch in epochs.unique().tolist():
            mask = epochs == epoch
            chosen[mask] = self._permutation(epoch)[places[mask]]
        return chosen

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._recent:
            self._recent = {e: p for e, p in self._recent.items() if abs(e - epoch) == 1}
            self._recent[epoch] = permutation(self.seed, self.stream, epoch, self.size)
        return self._recent[epoch]
