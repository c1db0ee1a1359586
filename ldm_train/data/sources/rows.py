"""Read rows of tables: JSON lines, comma or tab separated values, parquet. A bad row does not affect the others."""

import csv
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ldm_train.data.sources.annotations import BOM, parse_json_object
from ldm_train.data.sources.arrow import iterate_rows
from ldm_train.data.sources.items import Item, format_name
from ldm_train.data.sources.row_groups import SkippedGroup, read_record_batches
from ldm_train.util.inputs import BUFFER, MAX_LINE, MAX_TABLE, READ_ERRORS, describe_error, open_input, read_lines
from ldm_train.util.text import first_line

TOO_LONG = f"is longer than {MAX_LINE:,} bytes"
MAX_NAMED = 100_000  # unusable rows of a table that are reported one by one


@dataclass(frozen=True)
class TableRow:
    """A row, or the problem with it.

    Args:
        key: unique among all rows.
        origin: where it is, for messages: "metadata.jsonl line 3".
    """

    key: str
    origin: str
    values: dict[str, object]
    problem: str | None = None


class ProblemCounter:
    """Limit how many unusable rows of a table are reported: a few MB of a damaged one may contain millions."""

    def __init__(self) -> None:
        self.count = 0

    def is_full(self) -> bool:
        """Count one more, and return whether it is too many to be reported."""
        self.count += 1
        return self.count > MAX_NAMED

    def further(self, name: str) -> Iterator[Item]:
        """Yield one item for all that were too many."""
        if self.count > MAX_NAMED:
            problem = f"{self.count - MAX_NAMED:,} further rows cannot be used; is {name} the right table?"
            yield Item(f"{name}:further", None, (), name, problem=problem)


def read_table_rows(path: Path, name: str, *, needed: Collection[str]) -> Iterator[TableRow]:
    """Yield the rows of a file with a suffix in `ROW_READERS`.

    A file that cannot be read, or ends within a row, yields a problem there.

    Args:
        name: of the file, for messages.
        needed: columns without which a row is useless; values of other columns that cannot be read are left out.
    """
    try:
        with open_input(path, limit=MAX_TABLE, buffering=BUFFER) as file:
            yield from ROW_READERS[path.suffix.lower()](file, name, needed)
    except READ_ERRORS as error:
        yield _broken(name, f"cannot be read: {describe_error(error)}")


def _broken(name: str, problem: str, *, key: str | None = None) -> TableRow:
    return TableRow(key or name, format_name(name), {}, f"{format_name(name)} {problem}")


def _jsonl(file: BinaryIO, name: str, needed: Collection[str]) -> Iterator[TableRow]:
    for number, line in enumerate(read_lines(file), start=1):
        key, origin = f"{name}:{number}", f"{format_name(name)} line {number}"
        if line is None:
            yield TableRow(key, origin, {}, f"{origin} {TOO_LONG}")
            continue
        line = line.removeprefix(BOM) if number == 1 else line
        if not line.strip():
            continue
        try:
            yield TableRow(key, origin, parse_json_object(line))
        except (ValueError, MemoryError) as error:
            yield TableRow(key, origin, {}, f"{origin} {error or describe_error(error)}")


def _separated(file: BinaryIO, name: str, needed: Collection[str], *, delimiter: str) -> Iterator[TableRow]:
    records = _records(file, delimiter)
    _, header = next(records, (1, []))
    if isinstance(header, str) or not header:
        yield _broken(name, f"does not start with the names of its columns: {header or 'it is empty'}")
        return
    problem = _not_utf8(header) or ("has two columns of one name" if len(set(header)) < len(header) else None)
    if problem:
        yield _broken(name, f"{problem}, in its first line: {format_name(delimiter.join(header)[:200])}")
        return
    for number, record in records:
        key, origin = f"{name}:{number}", f"{format_name(name)} line {number}"
        bad = record if isinstance(record, str) else _not_utf8(record) or _too_long(record, header)
        values: dict[str, object] = {} if bad else dict.fromkeys(header) | dict(zip(header, record, strict=False))
        yield TableRow(key, origin, values, f"{origin} {bad}" if bad else None)


class Lines(Iterator[str]):
    """The lines of a file for `csv.reader`, which can continue after a line that is too long.

    `record` counts the characters since it was last set to 0: an open quote may join many lines into one record.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.lines = _text_lines(file)
        self.number = 0
        self.record = 0

    def __next__(self) -> str:
        line = next(self.lines)
        self.number += 1
        self.record += len(line or "")
        if line is None or self.record > MAX_LINE:
            raise csv.Error(f"it {TOO_LONG}")
        return line


def _text_lines(file: BinaryIO) -> Iterator[str | None]:
    for number, line in enumerate(read_lines(file)):
        if line is None:
            yield None
            continue
        line = line if number else line.removeprefix(BOM)
        yield from (part.decode("utf-8", "surrogateescape") for part in line.splitlines(keepends=True))  # also at \r alone


def _records(file: BinaryIO, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield each record, or the problem with it, with the number of its first line."""
    lines = Lines(file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number, lines.record = lines.number + 1, 0
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
    try:
        "".join(record).encode()
    except UnicodeEncodeError as error:  # of a byte that `_text_lines` escaped
        return f"is not UTF-8: byte 0x{ord(error.object[error.start]) - 0xDC00:02x}; save it as UTF-8"
    return None


def _too_long(record: list[str], header: list[str]) -> str | None:
    if len(record) <= len(header):
        return None
    return f"has {len(record)} values for {len(header)} columns; put quotes around texts that contain the separator"


def _parquet(file: BinaryIO, name: str, needed: Collection[str]) -> Iterator[TableRow]:
    number = 0
    try:
        for batch in read_record_batches(file, needed):
            if isinstance(batch, SkippedGroup):
                yield _broken(name, batch.problem, key=f"{name}:{number + 1}")
                number += batch.num_rows
                continue
            for values in iterate_rows(batch, needed):
                number += 1
                key, origin = f"{name}:{number}", f"{format_name(name)} row {number}"
                yield (
                    TableRow(key, origin, {}, f"{origin} {values}")
                    if isinstance(values, str)
                    else TableRow(key, origin, values)
                )
    except Exception as error:  # whatever pyarrow raises about a damaged file
        reason = first_line(error) if str(error) else describe_error(error)
        yield _broken(name, f"cannot be read after {number} rows: {reason[:300]}")


ROW_READERS: dict[str, Callable[[BinaryIO, str, Collection[str]], Iterator[TableRow]]] = {
    ".jsonl": _jsonl,
    ".csv": partial(_separated, delimiter=","),
    ".tsv": partial(_separated, delimiter="\t"),
    ".parquet": _parquet,
}
