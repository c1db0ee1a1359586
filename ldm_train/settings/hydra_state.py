"""Use Hydra, of which a process has one, within a program that may use it itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

from hydra.core.global_hydra import GlobalHydra

LOCK = RLock()


@contextmanager
def cleared_hydra() -> Iterator[None]:
    """Let Hydra be initialized until the block ends, by one thread at a time; then it is what it was."""
    with LOCK:
        before = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            yield
        finally:
            GlobalHydra.instance().hydra = before
