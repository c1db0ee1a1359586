"""Where the members of a tar file begin: its headers alone are read."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ldm_train.data.items import shown

PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True)
class Fault:
    """What is wrong with a tar, and with which member, if its name is known; `certain` if beyond doubt."""

    words: str
    member: str | None = None
    certain: bool = True


def members(path: Path) -> Iterator[Member | Fault]:
    """The whole files of a tar, in its order, and its faults. Raises OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        packed = [name for magic, name in PACKED.items() if file.peek(len(magic)).startswith(magic)]
        if packed:
            yield Fault(f"is packed with {packed[0]}; pictures are read in place, so unpack it to a plain .tar")
            return
        last = "its beginning"
        try:
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                while (info := tar.next()) is not None:
                    if info.isfile() and info.offset_data + info.size > size:
                        yield Fault(f"is cut in the middle of {shown(info.name)}", info.name)
                        return
                    if info.issparse():
                        yield Fault(f"holds {shown(info.name)} as a sparse file; pack it without --sparse", info.name)
                    elif info.isfile():
                        yield Member(info.name, info.offset_data, info.size)
                    last = shown(info.name)
                    tar.members.clear()  # type: ignore[attr-defined]  # it keeps each, about 1 kB
                end = tar.offset
            file.seek(end)
            yield from _after(file, last)
        except (tarfile.TarError, ValueError) as error:
            yield Fault(f"cannot be read as a tar after {last}: {error}")


def _after(file: BinaryIO, last: str) -> Iterator[Fault]:
    """tarfile ends quietly at whatever is no header; only blocks of zeros are an end."""
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        yield Fault(f"has no end mark: it may be cut after {last}", certain=False)
    elif len(block) < tarfile.BLOCKSIZE:
        yield Fault(f"is cut after {last}")
    elif any(block):
        yield Fault(f"is damaged after {last}")
    elif any(any(rest) for rest in iter(lambda: file.read(1 << 20), b"")):
        yield Fault(f"has more after its end mark, which follows {last}: are these several tars in one file?")
