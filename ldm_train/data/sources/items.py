"""The items of sources: captioned pictures that are read only when needed."""

import os
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from ldm_train.util.inputs import MAX_PICTURE, read_input

MISSING = "no caption: "  # the beginning of such a problem


class EncodedPicture(Protocol):
    """The encoded bytes of one picture.

    `lasting` is whether they can be read at any time, and by other processes; those of a stream cannot.
    """

    @property
    def lasting(self) -> bool: ...

    def read(self) -> bytes:
        """Return all bytes, or raise one of `READ_ERRORS`."""

    def stamp(self) -> tuple[int, int] | None:
        """Return size in bytes and modification time in nanoseconds, which change with the content; None if not known."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture in a file."""

    path: Path
    lasting = True

    def read(self) -> bytes:
        return read_input(self.path, limit=MAX_PICTURE, check=check_picture)

    def stamp(self) -> tuple[int, int] | None:
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A picture in a part of a file, such as a tar: `length` bytes from `offset`."""

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


@dataclass(frozen=True, slots=True)
class TablePicture:
    """A picture in a row of a table with random access."""

    fetch: Callable[[int], bytes]
    row: int
    lasting = True

    def read(self) -> bytes:
        return self.fetch(self.row)

    def stamp(self) -> tuple[int, int] | None:
        return None


@dataclass(frozen=True, slots=True)
class PictureBytes:
    """A picture of a stream, in memory."""

    content: bytes
    lasting = False

    def read(self) -> bytes:
        return self.content

    def stamp(self) -> tuple[int, int] | None:
        return None


@dataclass(frozen=True, slots=True)
class Item:
    """One captioned picture of a source.

    Args:
        key: its name, unique in the source and the same on other machines: not an absolute path.
        picture: its bytes; None if the item only reports a problem.
        captions: all its captions, in the source's order, without empty ones.
        origin: where it is, for messages: "metadata.jsonl line 3".
        held_out: whether it is held out from training.
        fields: further columns of its metadata, as text.
        maps: further pictures of it by their names, such as its depth.
        problem: why it cannot be used, None if it can.
        repeats: how often an epoch has it.
    """

    key: str
    picture: EncodedPicture | None
    captions: tuple[str, ...]
    origin: str
    held_out: bool = False
    fields: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    repeats: int = 1
    maps: Mapping[str, EncodedPicture] = field(default_factory=dict)


def accept_without_caption(item: Item) -> Item:
    """Return an item that has no other problem than a missing caption with the empty one; others as they are."""
    missing = item.picture is not None and item.problem is not None and item.problem.startswith(MISSING)
    return replace(item, captions=("",), problem=None) if missing else item


def check_picture(start: bytes) -> None:
    """Raise ValueError if a file with these first bytes is no picture, and no array as maps may be.

    Pillow is imported only for large files.
    """
    from ldm_train.data.pictures.arrays import is_array
    from ldm_train.data.pictures.headers import require_format

    if not is_array(start):
        require_format(start)


def compose_accents(name: str) -> str:
    """Return a name with composed accents: macOS writes them as characters of their own."""
    return unicodedata.normalize("NFC", name)


def usual_name(name: str) -> str:
    """Return a path with composed accents and with slashes, for which Windows writes backslashes."""
    return compose_accents(name.replace("\\", "/"))


def relative_path(path: str, folder: str) -> str:
    """Return a path relative to a folder, with slashes; ".." begins one that is outside."""
    return Path(os.path.relpath(path, folder)).as_posix()


def format_name(name: str) -> str:
    """Return a key or path for one line of a terminal, with control characters and undecodable bytes escaped."""
    readable = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in readable)
