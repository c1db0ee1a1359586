"""Which pictures are held out where their source names none: a share, chosen by the pictures' digests."""

from collections.abc import Iterable

import torch
from torch import Tensor


def is_held_out(picture: Tensor, share: float) -> Tensor:
    """Return whether pictures are held out, (N,) bool, from the first 32 bits of their digests (N,)."""
    return picture.double() / 2**32 < share


def count_held_out(digests: Iterable[str], share: float) -> int:
    """Return how many pictures with these hexadecimal digests are held out."""
    return int(is_held_out(torch.tensor([int(digest[:8], 16) for digest in digests]), share).sum())


def warn_of_none_held_out(held_out: int, total: int, *, share: float) -> list[str]:
    """Return a warning if no picture is held out.

    Args:
        share: of the pictures that should be held out.
    """
    if held_out:
        return []
    return [
        f"none of {total:,} pictures is held out with held_out={share:g}: there is no validation loss, and metrics compare "
        "with pictures that are trained on; set a higher held_out, or name held-out pictures in the source"
    ]
