"""Read NumPy's arrays (.npy) as pictures and as maps, without unpickling, and bring numbers of all types to [-1, 1]."""

import io
import math

import numpy as np
from numpy.lib import format as npy

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # bytes, NumPy's own limit
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
ADVICE = (
    "save it as uint8 or uint16, of which 0 becomes -1 and the largest value of the type 1, as bool, or as floats in [-1, 1]"
)


def is_array(content: bytes) -> bool:
    """Return whether a file with these first bytes is NumPy's array."""
    return content.startswith(MAGIC)


def read_array_size(content: bytes, *, max_pixels: int, any_numbers: bool = False) -> tuple[int, int]:
    """Return the (height, width) of an array (H, W) or (H, W, C), from its header.

    Raises:
        ValueError: as `read_array`, except for what its values are.
    """
    height, width, _ = _read_header(content, max_pixels, any_numbers=any_numbers)[0]
    return height, width


def read_array(content: bytes, *, max_pixels: int, any_numbers: bool = False) -> np.ndarray:
    """Return the values of an array (H, W) or (H, W, C) as (H, W, C), of the type that they are stored in.

    Args:
        any_numbers: accept all types of numbers, for whoever knows their range.

    Raises:
        ValueError: it is damaged, has another shape or type, or more than `max_pixels` pixels.
    """
    shape, order, kind, start = _read_header(content, max_pixels, any_numbers=any_numbers)
    return np.frombuffer(content, kind, offset=start).reshape(shape, order="F" if order else "C")


def _read_header(content: bytes, max_pixels: int, *, any_numbers: bool) -> tuple[tuple[int, int, int], bool, np.dtype, int]:
    """Return shape, whether columns are stored one after another, type, and where the values begin."""
    file = io.BytesIO(content[: LONGEST_HEADER + 100])
    try:
        shape, order, kind = READERS[npy.read_magic(file)](file, max_header_size=LONGEST_HEADER)
    except Exception as error:  # of a parser of Python's syntax
        raise ValueError(f"damaged: its header cannot be read: {error or type(error).__name__}") from error
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"its shape is {shape}; expected is (H, W) or (H, W, C)")
    if shape[0] * shape[1] > max_pixels:
        raise ValueError(f"{shape[1]}x{shape[0]} pixels are more than max_pixels={max_pixels}")
    ranged = kind.kind in "bf" or (kind.kind == "u" and kind.itemsize <= 2)
    if not (ranged or (any_numbers and kind.kind in "iu")) or kind.itemsize > 8:
        raise ValueError(f"its values are of the type {kind}, of which no range is known; {ADVICE}")
    start, needed = file.tell(), math.prod(shape) * kind.itemsize
    if len(content) - start != needed:
        raise ValueError(f"damaged: {len(content) - start:,} bytes follow its header, and its values take {needed:,}")
    return (shape[0], shape[1], shape[2] if len(shape) == 3 else 1), order, kind, start


def to_signed_values(values: np.ndarray) -> np.ndarray:
    """Return float32 values in [-1, 1]: the range of bool, uint8 or uint16 is scaled to it, floats stay as they are.

    Raises:
        ValueError: floats are outside [-1, 1] or not finite.
    """
    if values.dtype.kind == "f":
        low, high = values.min(), values.max()
        if not -1 <= low <= high <= 1:  # also of NaN
            raise ValueError(f"its values are from {low:g} to {high:g}; floats are used as they are, and must be in [-1, 1]")
        return values.astype(np.float32)
    largest = 1 if values.dtype.kind == "b" else np.iinfo(values.dtype).max
    return values.astype(np.float32) / np.float32(largest / 2) - 1
