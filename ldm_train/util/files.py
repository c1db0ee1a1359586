"""Write files atomically: after a failure, a kill or a power cut each is as it was before, or complete.

Every file is written under a temporary name in the same folder, flushed, renamed, and the folder flushed. The temporary name
is hidden and fixed for each file, so a later attempt to write the same file also removes what a killed one left.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not on every system
    fcntl = None  # type: ignore[assignment]

TEMPORARY_SUFFIX = ".ldm-train-writing"
LONGEST_NAME = 255  # bytes of a file's name, the dot and the suffix among them
NO_LINKS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)  # a link there would lead to somebody's file
UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EBADF}


def temporary_path(path: Path) -> Path:
    """Return the name under which `path` is written until it is complete."""
    return hidden_path(path, TEMPORARY_SUFFIX)


def hidden_path(path: Path, suffix: str) -> Path:
    """Return a hidden path next to another one: `.NAME` and the suffix, or a digest instead of a long name."""
    name = os.fsencode(path.name)
    text = path.name if len(name) + len(suffix) < LONGEST_NAME else hashlib.sha256(name).hexdigest()
    return path.with_name(f".{text}{suffix}")


@contextmanager
def atomic_path(path: Path, *, failures: tuple[type[Exception], ...] = (OSError,)) -> Iterator[Path]:
    """Give a temporary path to write to; flush and rename it to `path` at the end, or remove it after an exception.

    Missing parent folders are made. A symbolic link is followed, so the file it points to is replaced.

    Args:
        failures: what the library that writes raises when a write fails; they are raised again as an OSError.

    Raises:
        OSError: naming the file, what went wrong and the free space. What was at `path` is unchanged, unless the message
            says that only the flush of the folder failed.
    """
    target = path.resolve() if path.is_symlink() else path
    temporary = temporary_path(target)
    try:
        make_folder(target.parent)
        descriptor = _open_locked(temporary, target)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield temporary
        flush_file(temporary)
        _set_mode(temporary, os.fstat(descriptor).st_mode & 0o777)
        temporary.replace(target)
        flush_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, failures):
            raise write_error(path, error) from error
        raise
    finally:
        os.close(descriptor)  # which ends the lock


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Give an open file to write bytes to, which becomes `path` at the end; see `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("r+b") as file:
        yield file


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a whole file, text as UTF-8; see `atomic_path`."""
    with atomic_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def atomic_write_parts(path: Path, parts: Iterable[str]) -> None:
    """Write a whole file from parts of its text, which are not all in memory at once; see `atomic_path`."""
    with atomic_file(path) as file:
        for part in parts:
            file.write(part.encode("utf-8"))


def has_content(path: Path, parts: Iterable[str]) -> bool:
    """Return whether a file consists of these parts of a text."""
    with path.open("rb") as file:
        same = all(file.read(len(content)) == content for content in (part.encode("utf-8") for part in parts))
        return same and not file.read(1)


def write_error(path: Path, error: Exception) -> OSError:
    """Return the message for a file that cannot be written, with the system's error number."""
    free = ""
    with suppress(OSError):
        free = f" ({shutil.disk_usage(_existing(path.parent)).free / 2**20:,.0f} MiB are free there)"
    number = _error_number(error)
    reason = os.strerror(number) if number is not None else str(error) or type(error).__name__
    advice = "; free some space and try again" if number in (errno.ENOSPC, errno.EDQUOT) else ""
    found = OSError(f"cannot write {path}{free}: {reason}{advice}")
    found.errno = number
    return found


def link_file(source: Path, path: Path) -> None:
    """Give a complete file a second name, replacing what has that name; copy it where hard links are refused."""
    temporary = temporary_path(path)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        with atomic_path(path) as copy:
            shutil.copyfile(source, copy)
        return
    try:
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # renaming one link of a file over another one of it does nothing
    flush_folder(path.parent)


def digest_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, and flush the folders that they are made in."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        flush_folder(place.parent)


def flush_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flush a folder's names to the disk, where the file system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            error.filename = str(folder)
            raise
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left below a folder; a file that a living process is writing stays."""
    for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        if path.is_symlink() or not path.is_file():
            continue  # nothing that was written here, and opening a pipe would wait
        with suppress(OSError, ValueError), path.open("rb") as file:
            _lock(file.fileno(), path)
            path.unlink()


def remove_files(paths: Iterable[Path]) -> None:
    """Remove files, and flush the folders that they were in: after a power cut none of them is back."""
    removed = []
    for path in paths:
        path.unlink(missing_ok=True)
        removed.append(path.parent)
    for folder in dict.fromkeys(removed):
        if folder.is_dir():
            flush_folder(folder)


def is_temporary(path: Path) -> bool:
    """Return whether this is a temporary name of `atomic_path`."""
    return path.name.startswith(".") and path.name.endswith(TEMPORARY_SUFFIX)


def _error_number(error: BaseException) -> int | None:
    """Return the system's number of an error, or of the one that made a library raise it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    before = error.__cause__ or error.__context__
    return None if before is None else _error_number(before)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _set_mode(path: Path, mode: int) -> None:
    """Give a file that a library made anew the mode of ordinary files; some file systems have no modes."""
    with suppress(OSError):
        if path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)


def _open_locked(temporary: Path, target: Path) -> int:
    """Return the descriptor of an empty temporary file that is locked while it is open.

    The lock ends with its process, so the file of a killed process is taken over. File systems without locks do without.

    Raises:
        ValueError: another process is writing the same file.
    """
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | NO_LINKS, 0o666)
        try:
            _lock(descriptor, target)
            with suppress(FileNotFoundError):  # or another file: its process renamed it meanwhile
                if os.path.samestat(os.fstat(descriptor), temporary.stat()):
                    _empty(descriptor, temporary)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _empty(descriptor: int, temporary: Path) -> None:
    """Empty a temporary file that is locked, or remove it if that fails."""
    try:
        os.ftruncate(descriptor, 0)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def _lock(descriptor: int, target: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another process is writing {target}; wait for it to end, or choose another name") from None
    except OSError:
        return
