"""Pictures, tables and tars that unpack to gigabytes are surveyed in little memory: each is named, and spares the others."""

import io
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from tests.data.folders import captioned, picture

SIDE = 16_000  # pixels; squared they are more than MAX_PIXELS
MOST = 100 * 2**20  # bytes of memory that looking at all of it takes

LOOK = """
import resource, sys
import pyarrow.parquet
import webdataset
from ldm_train.data.scan.inspection import Decoder, inspect_items
from ldm_train.data.pictures.headers import MAX_PIXELS
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.table import Table
from ldm_train.data.sources.tar_shards import TarShards
from ldm_train.data.scan.survey import survey_items

def most():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30,) * 2)  # so that a mistake does not take the machine's
before = most()
for source in (Folder(sys.argv[1]), Table(sys.argv[2]), TarShards(sys.argv[3])):
    found = survey_items(source, max_pixels=MAX_PIXELS)
    problems = dict(found.problems)
    for one in inspect_items(source, Decoder("white", MAX_PIXELS)):
        if one.problem:
            problems[one.item.key] = one.problem
    print("used", *(seen.item.key for seen in found.scanned if seen.item.key not in problems))
    print("named", *problems)
print(1024 * (most() - before))
"""


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(side: int = 4, extra: bytes = b"", pixels: bytes | None = None) -> bytes:
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(side * (3 * side + 1))) if pixels is None else pixels)
    return b"\x89PNG\r\n\x1a\n" + size + extra + data + chunk(b"IEND", b"")


def packed(size: int) -> bytes:
    """This many zeros, packed."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**24)) for _ in range(size // 2**24)) + packer.flush()


def small(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind, lossless=True)
    return file.getvalue()


def jpeg() -> bytes:
    content = bytearray(small("JPEG"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", SIDE, SIDE)
    return bytes(content)


def webp() -> bytes:
    content = bytearray(small("WEBP"))
    place = content.index(b"VP8L") + 9
    content[place : place + 4] = struct.pack("<I", (SIDE - 1) | (SIDE - 1) << 14)
    return bytes(content)


def tiff() -> bytes:
    file = io.BytesIO()
    Image.new("1", (SIDE, SIDE)).save(file, "TIFF", compression="tiff_deflate")
    return file.getvalue()


def write_pictures(folder: Path) -> set[str]:
    """Write three good pictures and others; return the names of these."""
    zeros = packed(2**27)
    contents = {
        "bomb.png": png(SIDE, pixels=zeros),
        "bomb.jpg": jpeg(),
        "bomb.tif": tiff(),
        "bomb.webp": webp(),
        "long.png": png(),
        "text.png": png(extra=chunk(b"zTXt", b"text\0\0" + zeros)),
    }
    for name in ("a.png", "b.png", "pipe.png", "sparse.png", "zero.png", *contents):
        captioned(folder / name)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    os.truncate(folder / "sparse.png", 30 * 2**30)
    os.mkfifo(folder / ".pipe")
    for name, target in {"pipe.png": ".pipe", "zero.png": "/dev/zero"}.items():
        (folder / name).unlink()
        (folder / name).symlink_to(target)
    (folder / "long.txt").write_bytes(b"word " * 10**7)
    return {"pipe.png", "sparse.png", "zero.png", *contents} - {"text.png"}  # its text is not unpacked


def write_table(folder: Path) -> Path:
    """Write a table of two row groups: 70 MiB of a text that repeats, and a row that can be used."""
    picture(folder / "c.png")
    rows = pyarrow.table({"file_name": ["c.png"], "text": ["x"]})
    bomb = pyarrow.table({"file_name": ["c.png"] * 70, "text": ["x" * 2**20] * 70})
    with parquet.ParquetWriter(folder / "t.parquet", rows.schema, compression="zstd", use_dictionary=False) as writer:
        writer.write_table(bomb)
        writer.write_table(rows)
    return folder / "t.parquet"


def write_tar(folder: Path) -> Path:
    """Write a tar with a good picture, and then a name of 20 GB."""
    with tarfile.open(folder / "s.tar", "w") as tar:
        tar.add(captioned(folder / "d.png"), "d.png")
        tar.add(folder / "d.txt", "d.txt")
        end = tar.offset
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 20 * 2**30
    with (folder / "s.tar").open("r+b") as file:
        file.seek(end)
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(25 * 2**30)
    return folder / "s.tar"


@pytest.mark.slow
def test_bombs_are_named_in_little_memory(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("pictures", "table", "tar")]
    for folder in folders:
        folder.mkdir()
    bad = write_pictures(folders[0])
    words = [str(folders[0]), str(write_table(folders[1])), str(write_tar(folders[2]))]
    done = subprocess.run([sys.executable, "-c", LOOK, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert set(lines[0][1:]) >= {"a.png", "b.png", "text.png"}
    assert set(lines[1][1:]) == bad
    assert lines[2:6] == [["used", "c.png"], ["named", "t.parquet:1"], ["used", "s/d"], ["named", "s:0"]]
    assert int(lines[6][0]) < MOST
