"""Limit the number of parts of a picture's file: each part takes time to read, and a small file can have millions.

Only lengths and markers are read here. Damaged files are left to Pillow, which reports what is wrong.
"""

import re
import struct
from collections.abc import Iterator

MAX_PARTS = 10_000  # chunks, segments or extension blocks that are not pixels
MAX_CHUNKS = 10**6  # of a PNG, pixels included
MAX_SCANS = 100  # passes over all pixels of a progressive JPEG, of which programs write about ten
MAX_METADATA = 16 * 2**20  # bytes of a WebP's profile, EXIF or XMP, which are copied several times
MAX_ANIMATED = 45_000_000  # pixels of an animated WebP, whose decoder keeps four pictures at once

PIXEL_CHUNKS = (b"IDAT", b"fdAT", b"fcTL")  # a PNG's, and those of the further frames of an animation
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a JPEG's, without those that may stand between pixels
ALONE = {0x01, *range(0xD0, 0xD9)}  # markers that no length follows
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9


def check_structure(content: bytes) -> None:
    """Raise ValueError if a file has more parts than any picture needs."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(content)
    elif content.startswith(b"\xff\xd8"):
        _check_jpeg(content)
    elif content.startswith((b"GIF87a", b"GIF89a")):
        _check_count(sum(1 for _ in _gif_extensions(content)), MAX_PARTS, "extension blocks")
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        _check_webp(content)


def _check_count(count: int, limit: int, noun: str) -> None:
    if count > limit:
        raise ValueError(f"it has more than {limit:,} {noun}; save the picture anew")


def _check_png(content: bytes) -> None:
    position, chunks, others = 8, 0, 0
    while position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        position += 12 + length
        chunks += 1
        others += name not in PIXEL_CHUNKS
        _check_count(chunks, MAX_CHUNKS, "chunks")
        _check_count(others, MAX_PARTS, "chunks that are not pixels")


def _check_jpeg(content: bytes) -> None:
    position, segments, scans = 2, 0, 0
    while (found := MARKER.search(content, position)) is not None and content[found.end() - 1] != END_OF_IMAGE:
        marker, position = content[found.end() - 1], found.end()
        if marker in ALONE or position + 2 > len(content):
            continue
        position += struct.unpack_from(">H", content, position)[0]
        segments += 1
        scans += marker == START_OF_SCAN
        _check_count(segments, MAX_PARTS, "segments")
        _check_count(scans, MAX_SCANS, "scans")


def _gif_extensions(content: bytes) -> Iterator[int]:
    """Give the place of each extension block before the first frame, and of not many more than are allowed."""
    if len(content) < 13:
        return
    position = 13 + (3 << (content[10] % 8 + 1) if content[10] & 0x80 else 0)
    for _ in range(MAX_PARTS + 1):
        if content[position : position + 1] != b"!":
            return
        yield position
        position += 2
        while position < len(content) and content[position]:
            position += 1 + content[position]
        position += 1


def _check_webp(content: bytes) -> None:
    position, chunks = 12, 0
    while position + 18 <= len(content) and chunks <= MAX_PARTS:
        name, length = struct.unpack_from("<4sI", content, position)
        if name in (b"ICCP", b"EXIF", b"XMP "):
            _check_count(length, MAX_METADATA, f"bytes of {name.decode().strip()}")
        if name == b"VP8X" and content[position + 8] & 2:
            width, height = (
                int.from_bytes(content[place : place + 3], "little") + 1 for place in (position + 12, position + 15)
            )
            _check_count(width * height, MAX_ANIMATED, "pixels in an animation")
        position += 8 + length + length % 2
        chunks += name != b"ANMF"
