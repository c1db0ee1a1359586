"""Find the colours (nclx) of an AVIF or HEIC file's primary picture, which its decoders do not give."""

import struct
from collections.abc import Iterator

MAX_BOXES = 10_000
Box = tuple[bytes, int, int]  # name, and where its content starts and ends


def read_nclx(content: bytes) -> tuple[int, int] | None:
    """Return the numbers of primaries and transfer function (ITU-T H.273); None if there are none, or boxes are damaged."""
    try:
        return _find_nclx(content)
    except (struct.error, IndexError, StopIteration):
        return None


def _find_nclx(content: bytes) -> tuple[int, int] | None:
    meta = _children(content, _only(_children(content, (b"", 0, len(content))), b"meta"), skipped=4)
    primary = _only(meta, b"pitm")
    version = content[primary[1]]
    (item,) = struct.unpack_from(">I" if version else ">H", content, primary[1] + 4)
    properties = _children(content, _only(meta, b"iprp"))
    listed = _children(content, _only(properties, b"ipco"))
    numbers = [number for box in properties if box[0] == b"ipma" for number in _associated(content, box, item)]
    for name, start, end in (listed[number - 1] for number in numbers if 0 < number <= len(listed)):
        if name == b"colr" and content[start : start + 4] == b"nclx" and end - start >= 8:
            primaries, transfer = struct.unpack_from(">HH", content, start + 4)
            return primaries, transfer
    return None


def _children(content: bytes, box: Box, *, skipped: int = 0) -> list[Box]:
    return list(_iterate_boxes(content, box[1] + skipped, box[2]))


def _iterate_boxes(content: bytes, start: int, end: int) -> Iterator[Box]:
    for _ in range(MAX_BOXES):
        if start + 8 > end:
            return
        size, name = struct.unpack_from(">I4s", content, start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", content, start + 8), 16
        stop = end if size == 0 else start + size
        if stop < start + head or stop > end:
            return
        yield name, start + head, stop
        start = stop


def _only(boxes: list[Box], name: bytes) -> Box:
    return next(box for box in boxes if box[0] == name)


def _associated(content: bytes, box: Box, item: int) -> Iterator[int]:
    """Give the numbers of an item's properties, from 1."""
    place, end = box[1] + 8, box[2]
    version, wide = content[box[1]], content[box[1] + 3] & 1
    (entries,) = struct.unpack_from(">I", content, box[1] + 4)
    for _ in range(min(entries, MAX_BOXES)):
        (number,) = struct.unpack_from(">I" if version else ">H", content, place)
        place += 4 if version else 2
        count = content[place]
        found = struct.unpack_from(f">{count}{'H' if wide else 'B'}", content, place + 1)
        place += 1 + count * (2 if wide else 1)
        if number == item:
            yield from (one & (0x7FFF if wide else 0x7F) for one in found)
        if place >= end:
            return
