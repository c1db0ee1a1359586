"""What the columns of a dataset of `datasets` hold, and the bytes of pictures in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ldm_train.data.sources.dataset_splits import one_line
from ldm_train.data.sources.items import check_picture
from ldm_train.util.inputs import MAX_PICTURE, check_size, read_input

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class PictureFetcher:
    """Reads the bytes of a row's picture, in any process."""

    data: "Dataset"
    column: str

    def __call__(self, row: int) -> bytes:
        try:
            value = self.data[row][self.column]
        except Exception as error:  # whatever `datasets` and pyarrow raise about damaged files
            raise OSError(f"the row cannot be read: {one_line(error)}") from error
        return read_encoded_picture(value)


def read_encoded_picture(value: object) -> bytes:
    """A picture that was not decoded: its bytes, or those of the file that it names.

    Raises:
        READ_ERRORS: there is neither, or they are too many.
    """
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
    if isinstance(content, bytes):
        check_size(len(content), MAX_PICTURE)
        return content
    if not isinstance(path, str):
        raise OSError("the row holds no picture")
    return _from_afar(path) if "://" in path else read_input(Path(path), limit=MAX_PICTURE, check=check_picture)


def _from_afar(address: str) -> bytes:
    from datasets.utils.file_utils import xopen

    try:
        with xopen(address, "rb") as file:
            content = bytes(file.read(MAX_PICTURE + 1))
        check_size(len(content), MAX_PICTURE)
        return content
    except Exception as error:  # each protocol has its own
        raise OSError(f"{address} cannot be read: {one_line(error)}") from error


def may_hold_pictures(feature: object) -> bool:
    """Whether a column may hold pictures: encoded ones, or the paths of files."""
    import datasets

    if isinstance(feature, dict):
        return not {"bytes", "path"}.isdisjoint(feature)
    return isinstance(feature, datasets.Image) or _is_value(feature, "string", "large_string", "binary", "large_binary")


def is_small(feature: object) -> bool:
    """Whether a column is read at little cost: numbers, texts, names of classes, and lists of them."""
    import datasets

    if isinstance(feature, datasets.List | datasets.LargeList):
        return is_small(feature.feature)
    return isinstance(feature, datasets.Value | datasets.ClassLabel) and not _is_value(feature, "binary", "large_binary")


def name_class(feature: object, value: object) -> object:
    """A class's name in place of its number."""
    import datasets

    return (
        feature.int2str(value)
        if isinstance(feature, datasets.ClassLabel) and isinstance(value, int) and 0 <= value < feature.num_classes
        else value
    )


def _is_value(feature: object, *kinds: str) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and feature.dtype in kinds
