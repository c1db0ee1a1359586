"""What a source yields: captioned pictures whose bytes are read only when asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ldm_train.util.inputs import MAX_PICTURE, read_input


class Picture(Protocol):
    """The encoded bytes of one picture, wherever they lie.

    `lasting` says whether they can be read at any time, and by other processes; a stream's cannot.
    """

    @property
    def lasting(self) -> bool: ...

    def read(self) -> bytes:
        """All bytes. Raises one of `READ_ERRORS` where they cannot be had."""

    def stamp(self) -> tuple[int, int] | None:
        """Size in bytes and time of change in nanoseconds, which change where the bytes do; None if unknown."""


@dataclass(frozen=True)
class PictureFile:
    """A file of its own."""

    path: Path
    lasting = True

    def read(self) -> bytes:
        return read_input(self.path, limit=MAX_PICTURE, check=check_picture)

    def stamp(self) -> tuple[int, int] | None:
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class FileSlice:
    """A part of a file, as of a tar: `length` bytes from `offset`."""

    path: Path
    offset: int
    length: int
    lasting = True

    def read(self) -> bytes:
        part = {"offset": self.offset, "length": self.length}
        return read_input(self.path, limit=MAX_PICTURE, check=check_picture, **part)

    def stamp(self) -> tuple[int, int] | None:
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class TablePicture:
    """A row of a table that can be read at any place."""

    fetch: Callable[[int], bytes]
    row: int
    lasting = True

    def read(self) -> bytes:
        return self.fetch(self.row)

    def stamp(self) -> tuple[int, int] | None:
        return None


@dataclass(frozen=True)
class PictureBytes:
    """What a stream handed over: here once, in memory."""

    content: bytes
    lasting = False

    def read(self) -> bytes:
        return self.content

    def stamp(self) -> tuple[int, int] | None:
        return None


@dataclass(frozen=True)
class Item:
    """One captioned picture of a source.

    Args:
        key: its name, unique in the source and the same on another machine: no absolute path.
        picture: its bytes; None where there is only a problem to tell.
        captions: all it has, in the source's order, without empty ones.
        origin: where it stands, for people: "metadata.jsonl line 3".
        held_out: whether training must not see it.
        fields: the metadata's further columns, as text.
        problem: why it cannot be used, if so.
    """

    key: str
    picture: Picture | None
    captions: tuple[str, ...]
    origin: str
    held_out: bool = False
    fields: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


def check_picture(start: bytes) -> None:
    """Raise ValueError if a file with these first bytes is no picture; Pillow is imported for large files only."""
    from ldm_train.data.pictures.headers import check_beginning

    check_beginning(start)


def format_name(name: str) -> str:
    """A key or path as a terminal can print it on one line: control characters and undecodable bytes escaped."""
    readable = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in readable)
