"""Rows of a table in a file: JSON lines, comma or tab separated values, parquet. A bad row does not spoil the others."""

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ldm_train.data.items import shown
from ldm_train.data.sources.told import BOM, json_object

if TYPE_CHECKING:
    from pyarrow import RecordBatch


@dataclass(frozen=True)
class Row:
    """A row at its `origin` ("metadata.jsonl line 3"), or the problem with it; `key` names it among all rows."""

    key: str
    origin: str
    values: dict[str, object]
    problem: str | None = None


def read_rows(path: Path, name: str) -> Iterator[Row]:
    """The rows of a file whose ending is one of `READERS`, called `name` to people.

    A file that cannot be read, or ends amid a row, yields a problem there.
    """
    try:
        yield from READERS[path.suffix.lower()](path, name)
    except OSError as error:
        yield _broken(name, f"cannot be read: {error.strerror or error}")


def _broken(name: str, problem: str, *, key: str | None = None) -> Row:
    return Row(key or name, shown(name), {}, f"{shown(name)} {problem}")


def _jsonl(path: Path, name: str) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(BOM) if number == 1 else line
            if not line.strip():
                continue
            key, origin = f"{name}:{number}", f"{shown(name)} line {number}"
            try:
                yield Row(key, origin, json_object(line))
            except ValueError as error:
                yield Row(key, origin, {}, f"{origin} {error}")


def _separated(path: Path, name: str, *, delimiter: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        records = _records(file, delimiter)
        _, header = next(records, (1, []))
        if isinstance(header, str) or not header:
            yield _broken(name, f"does not begin with the names of its columns: {header or 'it is empty'}")
            return
        problem = _not_utf8(header) or ("has two columns of one name" if len(set(header)) < len(header) else None)
        if problem:
            yield _broken(name, f"{problem}, in its first line: {shown(delimiter.join(header))}")
            return
        for number, record in records:
            key, origin = f"{name}:{number}", f"{shown(name)} line {number}"
            bad = record if isinstance(record, str) else _not_utf8(record) or _too_long(record, header)
            values: dict[str, object] = {} if bad else dict(zip(header, record, strict=False))
            yield Row(key, origin, values, f"{origin} {bad}" if bad else None)


def _records(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Each record with the line that it begins in, or what is wrong with it."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, f"is malformed: {error} (is a quote left open?)"
        else:
            if record:
                yield number, record


def _not_utf8(record: list[str]) -> str | None:
    escaped = [letter for value in record for letter in value if "\udc80" <= letter <= "\udcff"]
    return f"is not UTF-8: byte 0x{ord(escaped[0]) - 0xDC00:02x}; save it as UTF-8" if escaped else None


def _too_long(record: list[str], header: list[str]) -> str | None:
    if len(record) <= len(header):
        return None
    return f"has {len(record)} values for {len(header)} columns; put quotes around a text that holds the separator"


def _parquet(path: Path, name: str) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with path.open("rb") as opened, parquet.ParquetFile(opened) as file:
            columns = [column.name for column in file.schema_arrow if not _holds_bytes(column.type)]
            for batch in file.iter_batches(columns=columns):
                for values in one_by_one(batch):
                    number += 1
                    key, origin = f"{name}:{number}", f"{shown(name)} row {number}"
                    if isinstance(values, str):
                        yield Row(key, origin, {}, f"{origin} {values}")
                    else:
                        yield Row(key, origin, values)
    except (ValueError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield _broken(name, f"cannot be read after {number} rows: {reason}")


def one_by_one(batch: "RecordBatch") -> Iterator[dict[str, object] | str]:
    """The rows of a part of a parquet or arrow file, or what is wrong with a row: its bytes need not be UTF-8."""
    try:
        rows: list[dict[str, object] | str] = batch.to_pylist()
    except ValueError:
        rows = [_one(batch.slice(number, 1)) for number in range(batch.num_rows)]
    yield from rows


def _one(batch: "RecordBatch") -> dict[str, object] | str:
    try:
        [row] = batch.to_pylist()
    except UnicodeDecodeError as error:
        return f"is not UTF-8: byte 0x{error.object[error.start]:02x}"
    except ValueError as error:
        return f"cannot be read: {error}"
    return row


def _holds_bytes(kind: object) -> bool:
    """Whether a column's type has bytes in it, as pictures do, at any depth."""
    return "binary" in str(kind)


READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".csv": partial(_separated, delimiter=","),
    ".tsv": partial(_separated, delimiter="\t"),
    ".parquet": _parquet,
}
