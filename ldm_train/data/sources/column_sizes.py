"""Find the columns of a parquet file that unpack to far more than a table of captions or pictures has.

The sizes are those of the pages, and not those in the file's footer, which may say anything.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from ldm_train.data.sources.page_headers import read_page_sizes
from ldm_train.util.inputs import READ_ERRORS, describe_error

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

MAX_CHUNK = 2**30  # bytes of a column of a row group, encoded but not compressed
SUSPICIOUS = 64 * 2**20, 100  # bytes of a column, and times its compressed size, which no captions reach


@dataclass(frozen=True)
class ColumnSize:
    """Bytes of a column in one or in all row groups."""

    packed: int = 0
    unpacked: int = 0

    def __add__(self, other: "ColumnSize") -> "ColumnSize":
        return ColumnSize(self.packed + other.packed, self.unpacked + other.unpacked)

    @property
    def suspicious(self) -> bool:
        return self.unpacked > SUSPICIOUS[0] and self.unpacked > SUSPICIOUS[1] * self.packed


@dataclass
class GroupSizes:
    """The columns of a row group.

    Args:
        problems: why a column cannot be read, by its name.
        repeating: unpacked bytes of the largest page in which each value may repeat a long one, by column; 0 without one.
    """

    columns: dict[str, ColumnSize] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    repeating: dict[str, int] = field(default_factory=dict)


def measure_columns(
    file: BinaryIO, metadata: "FileMetaData", names: Collection[str], *, most: int = MAX_CHUNK
) -> list[GroupSizes]:
    """Return the sizes of columns in each row group. Those that unpack to too much, there or in all groups, are problems.

    Args:
        names: the columns that will be read.
        most: bytes of a column in a row group.
    """
    groups = [_measure_group(file, metadata, number, names) for number in range(metadata.num_row_groups)]
    for group in groups:
        for name, size in group.columns.items():
            if size.suspicious or size.unpacked > most:
                group.problems.setdefault(name, _describe(size))
    for name, size in _sum_usable(groups).items():
        if size.suspicious:
            for group in groups:
                group.problems.setdefault(name, _describe(size))
    return groups


def _describe(size: ColumnSize) -> str:
    return f"unpacks to {size.unpacked:,} bytes"


def _sum_usable(groups: Sequence[GroupSizes]) -> dict[str, ColumnSize]:
    """Return the size of each column in all groups together, but those in which it has a problem already."""
    total: dict[str, ColumnSize] = {}
    for group in groups:
        for name in group.columns.keys() - group.problems.keys():  # a group of zeros must not exclude the other groups
            total[name] = total.get(name, ColumnSize()) + group.columns[name]
    return total


def _measure_group(file: BinaryIO, metadata: "FileMetaData", number: int, names: Collection[str]) -> GroupSizes:
    group = GroupSizes(repeating=dict.fromkeys(names, 0))
    for place in range(metadata.num_columns):
        chunk = metadata.row_group(number).column(place)
        name = find_column(chunk.path_in_schema, names)
        if name is None:
            continue
        try:
            pages = read_page_sizes(file, chunk)
        except READ_ERRORS as error:
            group.problems[name] = f"cannot be read: {describe_error(error)}"
            continue
        # one value may be that of all rows, and takes no byte for each
        unpacked = max(pages.unpacked, pages.values, chunk.total_uncompressed_size, chunk.num_values)
        group.columns[name] = group.columns.get(name, ColumnSize()) + ColumnSize(pages.packed, unpacked)
        group.repeating[name] = max(group.repeating[name], pages.repeating)
    return group


def find_column(path: str, names: Collection[str]) -> str | None:
    """Return which column the values at this path of the file belong to; a column may have dots in its name."""
    parts = path.split(".")
    candidates = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next((name for name in candidates if name in names), None)
