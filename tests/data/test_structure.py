"""A picture of a million parts costs no more than one of a few: each kind is named in little time, and spares the others."""

import io
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from ldm_train.data.pictures import structure, tiff_layout
from ldm_train.data.pictures.colour import MAX_PROFILE, read_profile
from ldm_train.data.pictures.decoding import decode_picture, find_profile_problem, read_upright_size
from ldm_train.data.sources.folder import Folder
from tests.data.folders import captioned
from tests.data.test_hostile_inputs import look
from tests.data.test_hostile_memory import chunk, png, small

MANY = structure.MAX_PARTS + 1


def segment(marker: int, content: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(segments: bytes, scans: int = 0) -> bytes:
    """A JPEG with these segments before its pixels, and its last scan so many times more."""
    content = small_jpeg()
    last = content.rindex(b"\xff\xda")
    return content[:2] + segments + content[2:last] + content[last:-2] * (scans + 1) + b"\xff\xd9"


def small_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", progressive=True)
    return file.getvalue()


def gif(extensions: int, frames: int = 1) -> bytes:
    content = small("GIF")
    start = content.index(b",")
    return content[:start] + b"!\xf9\x04\0\0\0\0\0" * extensions + content[start:-1] * frames + b";"


def tiff(values: int = 1, kind: int = 4, more: int = 0, following: int = 0) -> bytes:
    """A TIFF of 8x8 grey pixels: its strips have so many places, and there are so many further tags."""
    tags = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, kind, values, 8)]
    tags += [(277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64), *((1000 + number, 3, 1, 1) for number in range(more))]
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (
        b"II*\0" + struct.pack("<I", 72) + bytes(64) + page + struct.pack("<I", following) + bytes(4 * (values > 1) * values)
    )


def riff(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def webp(side: int = 8, frames: int = 1, metadata: int = 0) -> bytes:
    """An animated WebP with an EXIF chunk of so many bytes."""
    edge = struct.pack("<I", side - 1)[:3]
    frame = riff(b"ANMF", bytes(6) + struct.pack("<I", 7)[:3] * 2 + b"\x0a\0\0\0" + small("WEBP")[12:])
    body = b"WEBP" + riff(b"VP8X", b"\x0a\0\0\0" + edge * 2) + riff(b"ANIM", bytes(6)) + frame * frames
    return riff(b"RIFF", body + riff(b"EXIF", bytes(metadata)))


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "a.png": (lambda: png(extra=chunk(b"teSt", b"") * MANY), f"{structure.MAX_PARTS:,} chunks that are not pixels"),
    "b.png": (lambda: png(extra=chunk(b"IDAT", b"") * structure.MAX_CHUNKS), f"{structure.MAX_CHUNKS:,} chunks"),
    "a.jpg": (lambda: jpeg(segment(0xFE) * MANY), f"{structure.MAX_PARTS:,} segments"),
    "b.jpg": (lambda: jpeg(b"", structure.MAX_SCANS), f"{structure.MAX_SCANS:,} scans"),
    "a.gif": (lambda: gif(MANY), f"{structure.MAX_PARTS:,} extension blocks"),
    "a.tif": (lambda: tiff(tiff_layout.MAX_VALUES + 1), f"{tiff_layout.MAX_VALUES:,} numbers under one tag"),
    "a.webp": (lambda: webp(16_000), f"{structure.MAX_ANIMATED:,} pixels"),
    "b.webp": (lambda: webp(metadata=structure.MAX_METADATA + 1), f"{structure.MAX_METADATA:,} bytes of EXIF"),
}

GOOD: dict[str, Callable[[], bytes]] = {
    "frames of a gif": lambda: gif(2, 10**5),
    "frames of a webp": lambda: webp(frames=10**5),
    "segments": lambda: jpeg(segment(0xFE, b"\xff\xda") * 200),
    "scans": lambda: jpeg(b"", 20),
    "pieces of pixels": lambda: png()[:33] + b"".join(chunk(b"IDAT", bytes([byte])) for byte in png()[41:-16]) + png()[-12:],
    "a page that leads to itself": lambda: tiff(following=72),
    "tags": lambda: tiff(more=30_000),
}


@pytest.mark.parametrize("name", BAD)
def test_too_many_parts_are_named_and_spare_the_others(name: str, tmp_path: Path) -> None:
    make, reason = BAD[name]
    (captioned(tmp_path / name)).write_bytes(make())
    captioned(tmp_path / "good.png")
    start = time.process_time()
    found = look(Folder(str(tmp_path)))
    assert time.process_time() - start < 20
    assert [seen.item.key for seen in found.scanned] == ["good.png"]
    assert reason in found.problems[name]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.filterwarnings("ignore")
def test_what_pictures_have_is_read(name: str) -> None:
    content = GOOD[name]()
    structure.check_structure(content)
    if name != "tags":  # whose numbers may be those of anything
        assert decode_picture(content).size[::-1] == read_upright_size(content)


@pytest.mark.parametrize("name", [*BAD, *GOOD])
def test_a_file_cut_short_anywhere_is_left_to_the_decoder(name: str) -> None:
    content = (BAD[name][0] if name in BAD else GOOD[name])()
    for end in (0, 1, 5, 9, 11, 15, 21, 29, 30, 75, 85, len(content) // 2):
        with suppress(ValueError):  # and of nothing else, as of struct's own errors
            structure.check_structure(content[:end])


def test_a_large_profile_is_not_followed_and_not_kept() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", icc_profile=bytes(MAX_PROFILE + 1))
    read_profile.cache_clear()
    assert f"{MAX_PROFILE:,} bytes" in (find_profile_problem(file.getvalue()) or "")
    assert read_profile.cache_info().currsize == 0
