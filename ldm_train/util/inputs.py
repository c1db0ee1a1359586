"""Read files that users bring: regular files only, and no more bytes than a limit that is checked before anything is read.

A folder of pictures may hold links to devices and pipes, which never end or never begin, and sparse files of any length.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MAX_PICTURE = 512 * 2**20  # bytes of one encoded picture, which is as many as 178 million RGB pixels take uncompressed
MAX_TEXT = 2**20  # bytes of one caption, or of a file of captions next to a picture
MAX_LINE = 16 * 2**20  # bytes of one row of a table
MAX_SKIPPED = 256 * 2**20  # bytes of a row that is too long, after which the next row is still searched for
MAX_TABLE = 16 * 2**30  # bytes of a table, which is read row by row
MAX_PROMPTS = 64 * 2**20  # bytes of a file of prompts

# What reading a damaged or hostile file raises. It is a reason to leave out that file, and never one to stop.
READ_ERRORS = (OSError, ValueError, MemoryError, OverflowError, RecursionError)

BUFFER = 2**20  # of files that are read from start to end
CHECKED_FIRST = 2**20  # files above this many bytes have their first bytes checked before the rest is read
CHECKED_BEGINNING = 512
FILE_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def open_input(path: Path, *, limit: int | None, buffering: int = -1) -> Iterator[BinaryIO]:
    """Open a regular file, or a link to one, for reading.

    Args:
        limit: the most bytes that it may have; None for any number, where only a part is read.
        buffering: bytes, as `open` has it.

    Raises:
        OSError: it cannot be opened, is no regular file, or has more bytes.
        ValueError: the path cannot be the name of a file.
    """
    _check_regular(os.stat(path), limit)  # first, since opening a device may already do something
    with open(path, "rb", buffering=buffering, opener=_open_without_waiting) as file:
        _check_regular(os.fstat(file.fileno()), limit)  # again, since it may be another file by now
        yield file


def read_input(
    path: Path, *, limit: int, offset: int = 0, length: int | None = None, check: Callable[[bytes], None] | None = None
) -> bytes:
    """Read a regular file, or a part of one.

    Args:
        limit: the most bytes that are read.
        length: bytes from `offset` on; None for all.
        check: called with the first bytes of a large file, and raises if the rest need not be read.

    Raises:
        OSError: as `open_input`; or there are fewer bytes than `length`, or than there were when it was opened.
        ValueError: the path cannot be the name of a file; or what `check` raises.
    """
    with open_input(path, limit=None if length is not None else limit) as file:
        count = os.fstat(file.fileno()).st_size if length is None else length
        check_size(count, limit)
        file.seek(offset)
        content = file.read(CHECKED_BEGINNING) if check and count > CHECKED_FIRST else b""
        if check and content:
            check(content)
        content += file.read(count - len(content))
    if len(content) < count:
        raise OSError(f"{path.name} ends after {len(content):,} of {count:,} bytes")
    return content


def read_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Give each line of a file, and None for one that is longer than `MAX_LINE`.

    Raises:
        OSError: a line goes on and on, as in a file that is not a text.
    """
    while line := file.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE:
            yield line
            continue
        if not line.endswith(b"\n"):
            _skip_line(file)
        yield None


def _skip_line(file: BinaryIO) -> None:
    for _ in range(MAX_SKIPPED // BUFFER):
        part = file.readline(BUFFER)
        if not part or part.endswith(b"\n"):
            return
    raise OSError(f"a line is longer than {MAX_SKIPPED:,} bytes")


def read_user_text(path: Path, *, limit: int) -> str:
    """Read a text file, with or without a byte order mark.

    Raises:
        ValueError: naming the file and the reason.
    """
    try:
        return read_input(path, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{path} is not UTF-8: byte 0x{byte:02x} at {error.start}; save it as UTF-8") from error
    except READ_ERRORS as error:
        raise ValueError(f"{path} cannot be read: {describe_error(error)}") from error


def check_size(size: int, limit: int) -> None:
    """Raise OSError for a size that no file has, or that is above the limit."""
    if size < 0:
        raise OSError(f"its size is given as {size} bytes")
    if size > limit:
        raise OSError(f"it has {size:,} bytes; at most {limit:,} are read")


def describe_error(error: BaseException) -> str:
    """Return why something could not be read, on one line and without its path."""
    if isinstance(error, MemoryError):
        return "it needs more memory than is free"
    words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(words.split())[:300]


def _check_regular(status: os.stat_result, limit: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = FILE_KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(f"it is {kind}; only regular files are read")
    if limit is not None:
        check_size(status.st_size, limit)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that took its place since it was checked does not wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
