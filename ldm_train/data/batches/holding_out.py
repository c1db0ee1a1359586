"""Which pictures are held out where their source names none: a share, chosen by the pictures' digests."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def is_held_out(picture: "Tensor", share: float) -> "Tensor":
    """Return whether pictures are held out, (N,) bool, from the first 32 bits of their digests (N,)."""
    return picture.double() / 2**32 < share


def is_digest_held_out(digest: str, share: float) -> bool:
    """Return whether the picture with this hexadecimal digest is held out, as `is_held_out`."""
    return int(digest[:8], 16) / 2**32 < share


def count_held_out(digests: Iterable[str], share: float) -> int:
    """Return how many pictures with these hexadecimal digests are held out."""
    return sum(is_digest_held_out(digest, share) for digest in digests)


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
