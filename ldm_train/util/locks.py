"""Hold a lock file for as long as a process works in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def hold_lock(path: Path, *, busy: str, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes out until this one leaves the block or ends, however it ends.

    Args:
        path: the lock's file, in a folder that exists; it stays.
        busy: what to say if another process has the lock.
        wait: seconds to wait for it.

    Raises:
        ValueError: another process has the lock.
        OSError: the file system refuses locks.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait, poll_interval=0.03)
    except Timeout:
        raise ValueError(busy) from None
    except (OSError, NotImplementedError) as error:
        raise OSError(
            f"cannot lock {path} ({error}); without a lock two processes could write there at the same time. "
            "Choose a folder on a local disk, or mount this file system with locks"
        ) from error
    try:
        yield
    finally:
        lock.release()
