"""Read the headers of a parquet column's pages, which decide how much is unpacked, whatever the file's footer says.

A header is a struct of Thrift's compact protocol: PageHeader in https://github.com/apache/parquet-format. Each page of the
column is its header, then `compressed_page_size` bytes, which unpack to `uncompressed_page_size`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pyarrow.parquet import ColumnChunkMetaData

MAX_HEADER = 16 * 2**20  # bytes, as pyarrow has it; statistics in it may hold long texts
FIRST_READ = 256  # bytes, which most headers fit into
MAX_PAGES = 2**20  # of one column in one row group
MAX_EXCESS = 100  # bytes by which the footers of some old writers are too small
MAX_NESTING = 8  # of structs and lists in a header; real ones have 3
DELTA_BYTE_ARRAY = 7  # an encoding in which a value of few bytes may repeat a long one

UNPACKED, PACKED, DATA, DATA_V2 = 2, 3, 5, 8  # fields of a header
NUM_VALUES, ENCODING, ENCODING_V2 = 1, 2, 4  # fields of DATA and DATA_V2
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)

Struct = dict[int, "int | Struct"]


@dataclass(frozen=True)
class PageSizes:
    """What the pages of a column take in one row group.

    Args:
        packed, unpacked: bytes of all pages, as they are stored and when they are read.
        values: as many as the pages say that they hold.
        repeating: unpacked bytes of the largest page in which each value may repeat a long one; 0 if there is none.
    """

    packed: int
    unpacked: int
    values: int
    repeating: int


def read_page_sizes(file: BinaryIO, chunk: "ColumnChunkMetaData") -> PageSizes:
    """Return the sizes of the pages of a column in a row group.

    Raises:
        ValueError: a header is damaged, there are too many pages, or they end after the file or the column.
    """
    start = min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset)
    position, end = start, start + chunk.total_compressed_size
    unpacked = values = repeating = pages = 0
    while position < end:
        header, length = _read_header(file, position)
        size, packed = (_require_size(header, name) for name in (UNPACKED, PACKED))
        for name, encoding in ((DATA, ENCODING), (DATA_V2, ENCODING_V2)):
            if isinstance(data := header.get(name), dict):
                values += _require_size(data, NUM_VALUES)
                repeating = max(repeating, size if data.get(encoding) == DELTA_BYTE_ARRAY else 0)
        unpacked += length + size
        position += length + packed
        pages += 1
        if pages > MAX_PAGES:
            raise ValueError(f"it has more than {MAX_PAGES:,} pages")
    if position > end + MAX_EXCESS:
        raise ValueError(f"its pages have {position - start:,} bytes, and its footer says {end - start:,}")
    return PageSizes(position - start, unpacked, values, repeating)


def _require_size(values: Struct, name: int) -> int:
    value = values.get(name)
    if not isinstance(value, int) or value < 0:
        raise ValueError("a page's header has no size")
    return value


def _read_header(file: BinaryIO, position: int) -> tuple[Struct, int]:
    """Return the header at a position of a file, and its length in bytes."""
    size = FIRST_READ
    while size <= MAX_HEADER:
        file.seek(position)
        content = file.read(size)
        try:
            reader = CompactReader(content)
            return reader.read_struct(), reader.place
        except IndexError:  # it goes on
            if len(content) < size:
                raise ValueError("a page's header ends after the file") from None
            size *= 8
    raise ValueError(f"a page's header has more than {MAX_HEADER:,} bytes")


class CompactReader:
    """Read one struct of Thrift's compact protocol: its integers and structs, by the numbers of the fields.

    Raises:
        IndexError: the content ends before the struct does.
        ValueError: it is no such struct.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0

    def read_struct(self, depth: int = 0) -> Struct:
        """Return the fields, without those of other types; a field that comes twice has its last value, as in pyarrow."""
        fields: Struct = {}
        number = 0
        while byte := self._byte():
            delta, kind = byte >> 4, byte & 15
            number = number + delta if delta else self._number()
            value = self._value(kind, depth)
            if value is not None:
                fields[number] = value
        return fields

    def _value(self, kind: int, depth: int) -> "int | Struct | None":
        if depth > MAX_NESTING:
            raise ValueError("a page's header is nested too deeply")
        if kind in (I16, I32, I64):
            return self._number()
        if kind == STRUCT:
            return self.read_struct(depth + 1)
        if kind in (LIST, SET):
            self._skip_list(depth)
        elif kind not in (TRUE, FALSE):
            self._skip({BYTE: 1, DOUBLE: 8}[kind] if kind in (BYTE, DOUBLE) else self._length(kind))
        return None

    def _length(self, kind: int) -> int:
        if kind != BINARY:
            raise ValueError(f"a page's header is damaged: it has a field of type {kind}")
        return self._varint()

    def _skip_list(self, depth: int) -> None:
        byte = self._byte()
        count = byte >> 4 if byte >> 4 < 15 else self._varint()
        for _ in range(count):
            if byte & 15 in (TRUE, FALSE):
                self._byte()
            else:
                self._value(byte & 15, depth + 1)

    def _skip(self, count: int) -> None:
        self.place += count
        if self.place > len(self.content):
            raise IndexError

    def _byte(self) -> int:
        byte = self.content[self.place]
        self.place += 1
        return byte

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a page's header is damaged: it has a number of more than 10 bytes")

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
