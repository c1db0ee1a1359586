"""Read rows of tables: JSON, JSON lines, separated values, parquet. A bad row does not affect the others."""

import csv
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from ldm_train.data.sources.annotations import BOM, UTF_16, decode_text, parse_json_object
from ldm_train.data.sources.arrow import iterate_rows
from ldm_train.data.sources.items import Item, format_name
from ldm_train.data.sources.json_tables import list_json_rows
from ldm_train.data.sources.row_groups import SkippedGroup, read_record_batches
from ldm_train.util.inputs import (
    BUFFER,
    MAX_LINE,
    MAX_TABLE,
    READ_ERRORS,
    check_size,
    describe_error,
    open_input,
    read_lines,
)
from ldm_train.util.safe_json import parse_values
from ldm_train.util.text import first_line

TOO_LONG = f"is longer than {MAX_LINE:,} bytes"
MAX_CONVERTED = 256 * 2**20  # bytes of a table that is read at once: JSON, or UTF-16
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
        suffix = path.suffix.lower()
        with open_input(path, limit=MAX_TABLE, buffering=BUFFER) as file:
            yield from ROW_READERS[suffix](file if suffix == ".parquet" else _as_utf8(file), name, needed)
    except READ_ERRORS as error:
        yield _broken(name, f"cannot be read: {describe_error(error)}")


def _broken(name: str, problem: str, *, key: str | None = None) -> TableRow:
    return TableRow(key or name, format_name(name), {}, f"{format_name(name)} {problem}")


def _as_utf8(file: BinaryIO) -> BinaryIO:
    """Return a file of UTF-8; one that starts with the mark of UTF-16, as Excel's "Unicode text" does, is converted."""
    start = file.read(2)
    file.seek(0)
    if start not in UTF_16:
        return file
    content = file.read(MAX_CONVERTED + 1)
    check_size(len(content), MAX_CONVERTED)
    return BytesIO(decode_text(content).encode())


def _json(file: BinaryIO, name: str, needed: Collection[str]) -> Iterator[TableRow]:
    content = file.read(MAX_CONVERTED + 1)
    check_size(len(content), MAX_CONVERTED)
    try:
        rows = list_json_rows(parse_values(decode_text(content)))
    except ValueError as error:
        yield _broken(name, f"is not a table in JSON: {error}")
        return
    for number, row in enumerate(rows, start=1):
        key, origin = f"{name}:{number}", f"{format_name(name)} entry {number}"
        yield (
            TableRow(key, origin, row) if isinstance(row, dict) else TableRow(key, origin, {}, f"{origin} is not an object")
        )


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
    delimiter = _detect_delimiter(file, delimiter)
    records = _records(file, delimiter)
    _, header = next(records, (1, []))
    if isinstance(header, list) and len(header) == 2 and header == ["sep=", ""]:  # what Excel reads first
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


def _detect_delimiter(file: BinaryIO, delimiter: str) -> str:
    """Return what separates the names in the first line: what `sep=` says, or what it has most of."""
    first = file.readline(MAX_LINE).removeprefix(BOM).strip(b"\r\n")
    file.seek(0)
    if len(first) == 5 and first.startswith(b"sep="):
        return chr(first[4])
    return max((delimiter, ";", "\t"), key=lambda one: first.count(one.encode()))  # the usual one if several are equal


class LineReader(Iterator[str]):
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
    lines = LineReader(file)
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
    ".json": _json,
    ".csv": partial(_separated, delimiter=","),
    ".tsv": partial(_separated, delimiter="\t"),
    ".parquet": _parquet,
}
