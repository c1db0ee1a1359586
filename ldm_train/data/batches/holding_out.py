"""Which pictures are held out where their source names none: a share, chosen by the pictures' digests."""

from torch import Tensor


def falls_out(picture: Tensor, share: float) -> Tensor:
    """Return whether pictures are held out, (N,) bool, from the first 32 bits of their digests (N,)."""
    return picture.double() / 2**32 < share


def warn_of_none_held_out(held_out: int, total: int, *, share: float) -> list[str]:
    """Return a warning if no picture is held out although a share of them should be."""
    if held_out or not share:
        return []
    return [
        f"none of {total:,} pictures is held out with held_out={share:g}: there is no validation loss, and metrics compare "
        "with pictures that are trained on; set a higher held_out, or name held-out pictures in the source"
    ]
