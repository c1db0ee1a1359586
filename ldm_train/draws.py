"""Randomness as a function: the same (seed, stream, position) gives the same numbers on any rank, machine load or resume.

A run draws nothing from the global generators. Each quantity has a stream of its own, named by a word, so switching one
on leaves the others alone; a position counts examples (or steps) from the start of the run.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor


def generator(seed: int, stream: str, position: int) -> torch.Generator:
    """A CPU generator whose state depends on these three alone."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{position}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _draw(draw: Callable[..., Tensor], seed: int, stream: str, positions: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.stack([draw(tuple(shape), generator=generator(seed, stream, p)) for p in positions.tolist()])


def normal(seed: int, stream: str, positions: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, (B, *shape) for positions (B,), float32 on the CPU."""
    return _draw(torch.randn, seed, stream, positions, shape)


def uniform(seed: int, stream: str, positions: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """Uniform numbers in [0, 1), (B, *shape) for positions (B,), float32 on the CPU."""
    return _draw(torch.rand, seed, stream, positions, shape)


@lru_cache(maxsize=4)
def permutation(seed: int, stream: str, epoch: int, size: int) -> Tensor:
    """The order of `size` examples in one epoch, (size,) int64."""
    return torch.randperm(size, generator=generator(seed, stream, epoch))


def order(seed: int, positions: Tensor, size: int) -> Tensor:
    """Which of `size` examples stands at each position of an endless shuffled run, (B,) int64.

    Every epoch is a permutation of its own; a batch may span two.
    """
    chosen = [permutation(seed, "order", p // size, size)[p % size] for p in positions.tolist()]
    return torch.stack(chosen)
