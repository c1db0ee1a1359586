"""Rows of parquet and arrow data as Python values, with limits on what packed data may unpack to."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from ldm_train.data.items import shown
from ldm_train.util.inputs import MAX_LINE, describe_error

if TYPE_CHECKING:
    from pyarrow import Array, DataType, RecordBatch
    from pyarrow.parquet import FileMetaData, ParquetFile

ROWS = 1000  # of a batch
MAX_BATCH = 64 * 2**20  # bytes that become Python values at once, unless one row has more
MAX_CHUNK = 2**30  # bytes of a column of a row group, encoded but not compressed
SUSPICIOUS = 64 * 2**20, 100  # bytes of such a column, and times its compressed size, that no captions come to
TEXTS = re.compile(r"[^.]+(\.list\.(element|item))?")  # columns of texts, and of lists of texts


@dataclass(frozen=True)
class Unreadable:
    """Why a cell has no value."""

    problem: str


@dataclass(frozen=True)
class SkippedGroup:
    """A row group that was not read."""

    num_rows: int
    problem: str


def read_batches(file: BinaryIO, needed: Collection[str]) -> Iterator["RecordBatch | SkippedGroup"]:
    """Read a parquet file in small batches, without its pictures and without columns that unpack to far more than a table.

    Texts stay as dictionaries, for a value that is stored once may be used by every row.

    Args:
        needed: columns without which a row group is of no use.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(file) as plain:
        texts = [leaf.path for leaf in map(plain.schema.column, range(len(plain.schema.names))) if _is_text(leaf)]
        columns = [column.name for column in plain.schema_arrow if not _holds_bytes(column.type)]
        with parquet.ParquetFile(file, read_dictionary=texts) as opened:
            for group in range(opened.num_row_groups):
                yield from _read_group(opened, group, columns, needed)


def _read_group(
    file: "ParquetFile", group: int, columns: list[str], needed: Collection[str]
) -> Iterator["RecordBatch | SkippedGroup"]:
    large = _large_columns(file.metadata, group)
    bad = next((name for name in columns if name in large and name in needed), None)
    if bad is not None:
        rows = file.metadata.row_group(group).num_rows
        yield SkippedGroup(rows, f"row group {group}: its column {shown(bad)!r} unpacks to {large[bad]:,} bytes")
    else:
        usable = [name for name in columns if name not in large]
        yield from file.iter_batches(batch_size=ROWS, row_groups=[group], columns=usable)


def _large_columns(metadata: "FileMetaData", group: int) -> dict[str, int]:
    """The columns that unpack to too many bytes, with that number."""
    found: dict[str, int] = {}
    for number in range(metadata.num_columns):
        chunk = metadata.row_group(group).column(number)
        size, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
        if size > MAX_CHUNK or (size > SUSPICIOUS[0] and size > SUSPICIOUS[1] * packed) or size < 0:
            found[chunk.path_in_schema.partition(".")[0]] = size
    return found


def _is_text(leaf: object) -> bool:
    return getattr(leaf, "physical_type", "") == "BYTE_ARRAY" and bool(TEXTS.fullmatch(getattr(leaf, "path", "")))


def _holds_bytes(kind: "DataType") -> bool:
    """Whether a column's type has bytes in it, as pictures do, at any depth."""
    return "binary" in str(kind)


def one_by_one(batch: "RecordBatch", needed: Collection[str]) -> Iterator[dict[str, object] | str]:
    """Give each row without the values that cannot be read, or the problem where one of the `needed` columns cannot be."""
    if batch.num_rows > 1 and sum(map(unpacked_bytes, batch.columns)) > MAX_BATCH:
        half = batch.num_rows // 2
        yield from one_by_one(batch.slice(0, half), needed)
        yield from one_by_one(batch.slice(half), needed)
        return
    columns = dict(zip(batch.schema.names, map(_cells, batch.columns), strict=True))
    for number in range(batch.num_rows):
        row = {name: cells[number] for name, cells in columns.items()}
        bad = [v.problem for name, v in row.items() if isinstance(v, Unreadable) and name in needed]
        yield bad[0] if bad else {name: value for name, value in row.items() if not isinstance(value, Unreadable)}


def unpacked_bytes(column: "Array") -> int:
    """How many bytes a column takes without dictionaries."""
    import pyarrow
    from pyarrow import compute, types

    if types.is_dictionary(column.type):
        if not types.is_string(column.type.value_type):
            return int(column.nbytes)
        lengths = compute.take(compute.binary_length(column.dictionary).cast(pyarrow.int64()), column.indices)
        return int(column.indices.nbytes) + (compute.sum(lengths).as_py() or 0)
    if types.is_list(column.type) and types.is_dictionary(column.type.value_type):
        return unpacked_bytes(column.flatten())
    return int(column.nbytes)


def _cells(column: "Array") -> list[object]:
    """The values of a column, each that cannot be read as an `Unreadable`."""
    if len(column) == 1 and (size := unpacked_bytes(column)) > MAX_LINE:
        return [Unreadable(f"has {size:,} bytes in one column; at most {MAX_LINE:,} are read")]
    try:
        return list(column.cast(_plain(column.type)).to_pylist())
    except Exception as error:  # pyarrow's errors, and those of Python's dates, times and decimal numbers
        if len(column) > 1:
            return [cell for number in range(len(column)) for cell in _cells(column.slice(number, 1))]
        if isinstance(error, UnicodeDecodeError):
            return [Unreadable(f"is not UTF-8: byte 0x{error.object[error.start]:02x}")]
        return [Unreadable(f"cannot be read: {describe_error(error)}")]


def _plain(kind: "DataType") -> "DataType":
    """A type without dictionaries."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(kind):
        return kind.value_type
    if types.is_list(kind) and types.is_dictionary(kind.value_type):
        return pyarrow.list_(kind.value_type.value_type)
    return kind
