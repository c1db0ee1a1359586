"""Hold a lock file for as long as a process works in a folder."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ldm_train.util.files import write_error

LOCK_SUFFIX = ".ldm-train-lock"  # of a hidden file next to what it protects
NOT_OF_LOCKS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EIO}


@contextmanager
def hold_lock(path: Path, *, busy: str, wait: float = 0.0, remove: bool = False) -> Iterator[None]:
    """Keep other processes out until this one leaves the block or ends, however it ends.

    Args:
        path: the lock's file, in a folder that exists.
        busy: what to say if another process has the lock.
        wait: seconds to wait for it.
        remove: whether to remove the file at the end; filelock notices a file that was removed meanwhile.

    Raises:
        ValueError: another process has the lock.
        OSError: the file system refuses locks, or the file cannot be made.
    """
    new, lock = not path.exists(), FileLock(path)
    try:
        lock.acquire(timeout=wait, poll_interval=0.03)
    except Timeout:
        raise ValueError(busy) from None
    except (OSError, NotImplementedError) as error:
        if new:
            with suppress(OSError):
                path.unlink()
        if isinstance(error, OSError) and error.errno in NOT_OF_LOCKS:
            raise write_error(path, error) from error
        raise OSError(
            f"cannot lock {path} ({error}); without a lock two processes could write there at the same time. "
            "Choose a folder on a local disk, or mount this file system with locks"
        ) from error
    try:
        yield
    finally:
        if remove:
            path.unlink(missing_ok=True)
        lock.release()
