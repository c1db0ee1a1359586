"""Compare what a model would take with the memory of this machine, before it is built."""

import os

PIXELS = 4 * 512**2  # of the pictures that are drawn at once, as a small GPU can hold
BYTES = 4  # of a weight, as it is built


def check_fits(weights: int, *, noun: str) -> None:
    """Raise if this machine could not hold so many weights.

    Args:
        noun: the settings that make the model, such as "network".

    Raises:
        ValueError: it could not.
    """
    memory = machine_memory()
    if memory is not None and weights * BYTES > memory:
        raise ValueError(
            f"{noun} has {weights:,} weights, which take {weights * BYTES / 2**30:,.1f} GiB, and this machine has "
            f"{memory / 2**30:,.1f} GiB of memory; choose smaller sizes in {noun}"
        )


def count_at_once(height: int, width: int, *, most: int) -> int:
    """Return how many pictures of this size are drawn at once: fewer large ones."""
    return min(most, max(1, PIXELS // (height * width)))


def machine_memory() -> int | None:
    """Return the bytes of memory of this machine; None if the system does not report them."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
