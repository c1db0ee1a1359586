"""List the members of a tar file and their offsets, by reading only its headers."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ldm_train.data.sources.items import format_name
from ldm_train.util.inputs import describe_error, open_input

MAX_HEADERS = 2**20  # bytes of all headers of one member
AFTER_END = 64  # MiB after the end mark that are searched for a second tar file
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True)
class Fault:
    """A problem of a tar file, or of a member if its name is known; not `certain` if the file may be complete."""

    words: str
    member: str | None = None
    certain: bool = True


class Headers:
    """A file that limits what tarfile reads as headers: a damaged header may announce a name of gigabytes.

    `taken` counts the bytes since it was last set to 0.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek = file.seek
        self.tell = file.tell
        self.taken = 0

    def read(self, size: int) -> bytes:
        self.taken += size
        if size < 0 or self.taken > MAX_HEADERS:
            raise ValueError(f"the headers of one member take {self.taken:,} bytes; at most {MAX_HEADERS:,} are read")
        return self.file.read(size)


def iterate_members(path: Path) -> Iterator[Member | Fault]:
    """Yield the complete files of a tar in order, and its faults. Raises OSError if it cannot be read."""
    with open_input(path, limit=None) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(tarfile.BLOCKSIZE)
        file.seek(0)
        packed = [name for magic, name in PACKED.items() if start.startswith(magic)]
        if packed:
            yield Fault(f"is packed with {packed[0]}; pictures are read in place, so unpack it to a plain .tar")
            return
        last = "its beginning"
        try:
            headers = Headers(file)
            with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:  # type: ignore[call-overload]
                while (info := tar.next()) is not None:
                    if info.size < 0 or tar.offset <= info.offset:  # tarfile would loop forever
                        yield Fault(f"is damaged: {format_name(info.name)} has {info.size} bytes", info.name)
                        return
                    if info.isfile() and info.offset_data + info.size > size:
                        yield Fault(f"is cut in the middle of {format_name(info.name)}", info.name)
                        return
                    if info.issparse():
                        yield Fault(f"holds {format_name(info.name)} as a sparse file; pack it without --sparse", info.name)
                    elif info.isfile():
                        yield Member(info.name, info.offset_data, info.size)
                    elif not info.isdir():
                        yield Fault(f"holds {format_name(info.name)} as a link or a device; pack the file itself", info.name)
                    last = format_name(info.name)
                    tar.members.clear()  # it keeps each, about 1 kB
                    headers.taken = 0
                end = tar.offset
            file.seek(end)
            yield from _after(file, last)
        except Exception as error:  # damaged headers lead tarfile to struct.error, OverflowError, RecursionError and others
            if isinstance(error, OSError) and not isinstance(error, tarfile.TarError):
                raise
            yield Fault(f"cannot be read as a tar after {last}: {str(error) or describe_error(error)}")


def _after(file: BinaryIO, last: str) -> Iterator[Fault]:
    """Yield the fault at the end of a tar: tarfile stops silently at anything that is not a header."""
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        yield Fault(f"has no end mark: it may be cut after {last}", certain=False)
    elif len(block) < tarfile.BLOCKSIZE:
        yield Fault(f"is cut after {last}")
    elif any(block):
        yield Fault(f"is damaged after {last}")
    elif any(file.read(2**20).strip(b"\0") for _ in range(AFTER_END)):
        yield Fault(f"has more after its end mark, which follows {last}: are these several tars in one file?")
