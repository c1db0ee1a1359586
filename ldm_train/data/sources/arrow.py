"""Convert rows of arrow data to Python values. A value that cannot be read does not affect the others."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ldm_train.util.inputs import MAX_LINE, describe_error

if TYPE_CHECKING:
    from pyarrow import Array, DataType, RecordBatch

MAX_BATCH = 64 * 2**20  # bytes that become Python values at once, unless one row has more


@dataclass(frozen=True)
class Unreadable:
    """Why a cell has no value."""

    problem: str


def iterate_rows(batch: "RecordBatch", needed: Collection[str]) -> Iterator[dict[str, object] | str]:
    """Yield each row without unreadable values, or the problem if a value of one of the `needed` columns is unreadable."""
    if batch.num_rows > 1 and sum(map(count_unpacked_bytes, batch.columns)) > MAX_BATCH:
        half = batch.num_rows // 2
        yield from iterate_rows(batch.slice(0, half), needed)
        yield from iterate_rows(batch.slice(half), needed)
        return
    columns = dict(zip(batch.schema.names, map(_cells, batch.columns), strict=True))
    for number in range(batch.num_rows):
        row = {name: cells[number] for name, cells in columns.items()}
        bad = [v.problem for name, v in row.items() if isinstance(v, Unreadable) and name in needed]
        yield bad[0] if bad else {name: value for name, value in row.items() if not isinstance(value, Unreadable)}


def count_unpacked_bytes(column: "Array") -> int:
    """Return how many bytes a column has without dictionaries, with a pointer for each value of a list."""
    import pyarrow
    from pyarrow import compute, types

    kind = column.type
    if types.is_dictionary(kind) and types.is_string(kind.value_type):
        lengths = compute.take(compute.binary_length(column.dictionary).cast(pyarrow.int64()), column.indices)
        return int(column.indices.nbytes) + (compute.sum(lengths).as_py() or 0)
    if _is_list(kind):
        values = column.flatten()
        return 8 * len(values) + count_unpacked_bytes(values)
    if types.is_struct(kind):
        return sum(map(count_unpacked_bytes, column.flatten()))
    return int(column.nbytes)


def _cells(column: "Array") -> list[object]:
    """Return the values of a column, with an `Unreadable` for each that cannot be read."""
    if len(column) == 1 and (size := count_unpacked_bytes(column)) > MAX_LINE:
        return [Unreadable(f"has {size:,} bytes in one column; at most {MAX_LINE:,} are read")]
    try:
        return _values(column)
    except Exception as error:  # pyarrow's errors, and those of Python's dates, times and decimal numbers
        if len(column) > 1:
            return [cell for number in range(len(column)) for cell in _cells(column.slice(number, 1))]
        if isinstance(error, UnicodeDecodeError):
            return [Unreadable(f"is not UTF-8: byte 0x{error.object[error.start]:02x}")]
        return [Unreadable(f"cannot be read: {describe_error(error)}")]


def _values(column: "Array") -> list[object]:
    """Return the values of a column; rows share the values of a dictionary."""
    from pyarrow import compute, types

    if types.is_dictionary(column.type):
        used = column.indices.unique().drop_null()
        shared = dict(zip(used.to_pylist(), column.dictionary.take(used).to_pylist(), strict=True))
        return [shared.get(number) for number in column.indices.to_pylist()]
    if _is_list(column.type) and types.is_dictionary(column.type.value_type):
        values = iter(_values(column.flatten()))
        lengths = compute.list_value_length(column).to_pylist()
        return [None if length is None else list(islice(values, length)) for length in lengths]
    return list(column.to_pylist())


def _is_list(kind: "DataType") -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_map(kind)
