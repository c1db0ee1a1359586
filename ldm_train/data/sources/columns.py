"""Columns of datasets in Hugging Face's `datasets`: their types, and reading pictures and arrays from them."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldm_train.data.sources.items import check_picture
from ldm_train.util.inputs import MAX_PICTURE, check_size, describe_error, read_input

if TYPE_CHECKING:
    from datasets import Dataset

NUMBERS = re.compile(r"bool|u?int\d+|float\d+")  # types of a column's values that arrays are made of


@dataclass(frozen=True)
class PictureFetcher:
    """Read the bytes of a row's picture, or of its array as a .npy file, also in another process.

    Args:
        numbers: the type of the array's numbers; None for a picture.
    """

    data: "Dataset"
    column: str
    numbers: str | None = None

    def __call__(self, row: int) -> bytes:
        try:
            value = self.data[row][self.column]
        except Exception as error:  # whatever `datasets` and pyarrow raise about damaged files
            raise OSError(f"the row cannot be read: {describe_error(error)}") from error
        return read_cell(value, self.numbers)


def read_cell(value: object, numbers: str | None) -> bytes:
    """Return the bytes of a picture in a row's value, or of a .npy file with its array of numbers of this type.

    Raises:
        READ_ERRORS: as `read_encoded_picture`; or the array or one of its numbers is missing, or its rows have different
            lengths.
    """
    if numbers is None:
        return read_encoded_picture(value)
    if value is None:
        raise OSError("the row contains no array")
    try:
        array = np.asarray(value)  # of objects, if a number is missing: as a bool, None would be False
    except ValueError as error:
        raise OSError("the rows of its array have different lengths") from error
    if array.dtype == object:
        place = np.argwhere(array == None)[0].tolist()  # noqa: E711, of each number
        raise OSError(f"its array has no number at {place}")
    file = io.BytesIO()
    np.save(file, array.astype(numbers), allow_pickle=False)
    return file.getvalue()


def read_encoded_picture(value: object) -> bytes:
    """Return a picture's bytes from a row's value, which contains them or the path of a file.

    Raises:
        READ_ERRORS: it contains neither, or the picture cannot be read or is too large.
    """
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
    if isinstance(content, bytes):
        check_size(len(content), MAX_PICTURE)
        return content
    if not isinstance(path, str):
        raise OSError("the row contains no picture")
    return _read_remote(path) if "://" in path else read_input(Path(path), limit=MAX_PICTURE, check=check_picture)


def _read_remote(address: str) -> bytes:
    from datasets.utils.file_utils import xopen

    try:
        with xopen(address, "rb") as file:
            content = bytes(file.read(MAX_PICTURE + 1))
        check_size(len(content), MAX_PICTURE)
        return content
    except Exception as error:  # each protocol has its own classes
        raise OSError(f"{address} cannot be read: {describe_error(error)}") from error


def may_hold_pictures(feature: object) -> bool:
    """Return whether a column may contain pictures: encoded ones, or paths of files."""
    import datasets

    if isinstance(feature, dict):
        return not {"bytes", "path"}.isdisjoint(feature)
    return isinstance(feature, datasets.Image) or _is_value(feature, "string", "large_string", "binary", "large_binary")


def find_number_type(feature: object) -> str | None:
    """Return the type of the numbers of a column of arrays, None for other columns."""
    import datasets

    depth = 0
    if isinstance(feature, datasets.Array2D | datasets.Array3D):
        return str(feature.dtype) if NUMBERS.fullmatch(str(feature.dtype)) else None
    while isinstance(feature, datasets.List | datasets.LargeList):
        feature, depth = feature.feature, depth + 1
    if depth in (2, 3) and isinstance(feature, datasets.Value) and NUMBERS.fullmatch(feature.dtype):
        return feature.dtype
    return None


def is_small(feature: object) -> bool:
    """Return whether a column is cheap to read: numbers, texts, classes, and lists of these."""
    import datasets

    if isinstance(feature, datasets.List | datasets.LargeList):
        return is_small(feature.feature)
    return isinstance(feature, datasets.Value | datasets.ClassLabel) and not _is_value(feature, "binary", "large_binary")


def name_class(feature: object, value: object) -> object:
    """Return a class's name instead of its number, also in lists; other values as they are."""
    import datasets

    if isinstance(feature, datasets.List | datasets.LargeList) and isinstance(value, list):
        return [name_class(feature.feature, one) for one in value]
    return (
        feature.int2str(value)
        if isinstance(feature, datasets.ClassLabel) and isinstance(value, int) and 0 <= value < feature.num_classes
        else value
    )


def _is_value(feature: object, *kinds: str) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and feature.dtype in kinds
