"""Read row groups of parquet files, limited in their unpacked size. A damaged group does not affect the others."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from ldm_train.data.sources.arrow import MAX_BATCH, count_unpacked_bytes
from ldm_train.data.sources.column_sizes import GroupSizes, find_column, measure_columns
from ldm_train.data.sources.items import format_name
from ldm_train.util.inputs import MAX_TABLE, describe_error

if TYPE_CHECKING:
    from pyarrow import DataType, RecordBatch
    from pyarrow.parquet import FileMetaData, ParquetFile

ROWS_PER_BATCH = 1000  # of a batch
FEW_ROWS = 2**20  # of a table; larger ones need a byte of the file for each row, since no two rows are equal
MAX_FOOTER = 16 * 2**20  # bytes of the description of a file's columns
TEXTS = re.compile(r"[^.]+(\.list\.(element|item))?")  # columns of texts, and of lists of texts


@dataclass(frozen=True)
class SkippedGroup:
    """A row group that was not read."""

    num_rows: int
    problem: str


def read_record_batches(file: BinaryIO, needed: Collection[str]) -> Iterator["RecordBatch | SkippedGroup"]:
    """Yield a parquet file in small batches, without pictures, and without columns that unpack to far more than a table has.

    Texts stay dictionaries, since every row may use a value that is stored once.

    Args:
        needed: columns without which a row group is useless.

    Raises:
        OSError: its footer is too long, it has more rows than a file of its size can describe, or one of the needed columns
            unpacks to more than `MAX_TABLE` bytes.
    """
    from pyarrow import parquet

    limit = ColumnLimit(needed)
    _check_footer(file)
    with parquet.ParquetFile(file) as plain:
        _check_rows(plain.metadata, os.fstat(file.fileno()).st_size)
        columns = [column.name for column in plain.schema_arrow if not _holds_bytes(column.type)]
        groups = measure_columns(file, plain.metadata, columns)
        repeating = {name: max((group.repeating[name] for group in groups), default=0) for name in columns}
        leaves = [leaf for leaf in map(plain.schema.column, range(len(plain.schema.names))) if _is_text(leaf)]
        # pyarrow does not read repeating values as dictionaries
        texts = [leaf.path for leaf in leaves if not repeating.get(find_column(leaf.path, columns) or "")]
        with parquet.ParquetFile(file, read_dictionary=texts) as opened:
            for group, sizes in enumerate(groups):
                for batch in _read_group(opened, group, columns, needed, sizes):
                    yield batch if isinstance(batch, SkippedGroup) else limit.within(batch)


def check_parquet_file(file: BinaryIO) -> None:
    """Raise if another library would need far more memory for a parquet file than the file has bytes.

    Raises:
        OSError: as `read_record_batches`, or any column unpacks to too much or has damaged pages.
    """
    from pyarrow import parquet

    _check_footer(file)
    with parquet.ParquetFile(file) as opened:
        _check_rows(opened.metadata, os.fstat(file.fileno()).st_size)
        names = [column.name for column in opened.schema_arrow]
        for group, sizes in enumerate(measure_columns(file, opened.metadata, names, most=MAX_TABLE)):
            for name, problem in sizes.problems.items():
                raise OSError(f"row group {group}: its column {format_name(name)!r} {problem}")


class ColumnLimit:
    """Count the unpacked bytes of each column: one short value may be that of a million rows."""

    def __init__(self, needed: Collection[str]) -> None:
        self.needed = needed
        self.taken: Counter[str] = Counter()

    def within(self, batch: "RecordBatch") -> "RecordBatch":
        """Return the batch without columns that have too many bytes by now; raise OSError if one of them is needed."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self.taken[name] += count_unpacked_bytes(column)
            if self.taken[name] > MAX_TABLE and name in self.needed:
                raise OSError(f"its column {format_name(name)!r} unpacks to more than {MAX_TABLE:,} bytes")
        return batch.select([name for name in batch.schema.names if self.taken[name] <= MAX_TABLE])


def _check_footer(file: BinaryIO) -> None:
    """Raise OSError if the description of the file is longer than that of any real one."""
    file.seek(-min(8, os.fstat(file.fileno()).st_size), os.SEEK_END)
    length, mark = int.from_bytes(file.read(4), "little"), file.read(4)
    if mark == b"PAR1" and length > MAX_FOOTER:  # pyarrow reports any other end
        raise OSError(f"its footer has {length:,} bytes; at most {MAX_FOOTER:,} are read")


def _check_rows(metadata: "FileMetaData", size: int) -> None:
    rows = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if rows > FEW_ROWS and rows > size:
        raise OSError(f"it has {rows:,} rows in {size:,} bytes, which cannot all be about different pictures")


def _read_group(
    file: "ParquetFile", group: int, columns: list[str], needed: Collection[str], sizes: GroupSizes
) -> Iterator["RecordBatch | SkippedGroup"]:
    bad = next((name for name in columns if name in sizes.problems and name in needed), None)
    rows, all_rows = 0, file.metadata.row_group(group).num_rows
    if bad is not None:
        yield SkippedGroup(all_rows, f"row group {group}: its column {format_name(bad)!r} {sizes.problems[bad]}")
        return
    usable = [name for name in columns if name not in sizes.problems]
    at_once = max(1, min(ROWS_PER_BATCH, MAX_BATCH // max(1, *(sizes.repeating[name] for name in usable))))
    problem = ""
    for some in (
        usable,
        [name for name in usable if name in needed],
    ):  # a damaged column that is not needed must not lose rows
        try:
            for batch in _from_row(file.iter_batches(batch_size=at_once, row_groups=[group], columns=some), rows):
                rows += batch.num_rows
                yield batch
            return
        except Exception as error:  # whatever pyarrow raises about damaged pages
            problem = describe_error(error)
    yield SkippedGroup(all_rows - rows, f"row group {group} cannot be read after {rows} of {all_rows} rows: {problem}")


def _from_row(batches: Iterator["RecordBatch"], start: int) -> Iterator["RecordBatch"]:
    for batch in batches:
        if start < batch.num_rows:
            yield batch.slice(start)
        start = max(0, start - batch.num_rows)


def _is_text(leaf: object) -> bool:
    return getattr(leaf, "physical_type", "") == "BYTE_ARRAY" and bool(TEXTS.fullmatch(getattr(leaf, "path", "")))


def _holds_bytes(kind: "DataType") -> bool:
    """Return whether a column's type contains bytes, as pictures do, at any depth."""
    return "binary" in str(kind)
