"""Which pictures are held out where their source names none: a share, chosen by the pictures' digests."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ldm_train.util.held_out_figures import ENOUGH, say_if_few

SHARE, FIFTH, FEWEST = 0.05, 5, 4  # a fifth that is fewer than FEWEST pictures says nothing, and training would miss them


def choose_held_out(picture: Tensor, share: float | None) -> Tensor:
    """Return whether pictures are held out, (N,) bool, from the first 32 bits of their digests (N,).

    The lowest digests are held out, so copies stay together, and pictures that are added later move few others.

    Args:
        share: of all pictures; None for 5 %, and in small sets for as many as it takes to measure something: 20 different
            pictures, or a fifth of fewer than 100.
    """
    held_out = picture.double() / 2**32 < (SHARE if share is None else share)
    distinct = picture.unique()
    least = min(ENOUGH, len(distinct) // FIFTH)
    if share is None and least >= FEWEST:
        held_out |= picture <= distinct[least - 1]
    return held_out


def count_held_out(digests: Iterable[str], share: float | None) -> int:
    """Return how many pictures with these hexadecimal digests are held out."""
    return int(choose_held_out(torch.tensor([int(digest[:8], 16) for digest in digests], dtype=torch.int64), share).sum())


def warn_of_few_held_out(held_out: int, total: int, *, share: float | None) -> list[str]:
    """Return a warning if no picture is held out, or too few to measure anything.

    Args:
        share: of the pictures that should be held out; None for the default.
    """
    setting = f"held_out={'null' if share is None else f'{share:g}'}"
    advice = "set a higher held_out, or name held-out pictures in the source"
    if not held_out:
        return [
            f"none of {total:,} pictures is held out with {setting}: there is no validation loss, and metrics compare "
            f"with pictures that are trained on; {advice}"
        ]
    if few := say_if_few(held_out):
        return [f"{held_out} of {total:,} pictures are held out; the validation loss and other held-out figures are {few}"]
    return []


def spread_evenly(values: Tensor, count: int | None) -> Tensor:
    """Return up to `count` of the values (N,), evenly spread; None for all."""
    kept = len(values) if count is None else min(count, len(values))
    return values[torch.arange(kept) * len(values) // max(1, kept)]
