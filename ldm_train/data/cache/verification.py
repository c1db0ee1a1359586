"""How much of a cache is read before a run trains on it.

With "stat", a file is read once: its length and modification time are remembered next to the cache, and not in it, since a
cache must not depend on times.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ldm_train.data.cache.reader import LatentCache
from ldm_train.util.files import atomic_write, hidden_path
from ldm_train.util.safe_json import read_object

CONTENT, STAT, NONE = "content", "stat", "none"
MEMORY = ".ldm-train-verified.json"
Stamps = Mapping[str, list[int | str]]


def verify_cache(cache: LatentCache, how: str = CONTENT, *, progress: Callable[[int], None] = lambda count: None) -> None:
    """Compare the cache's files with their checksums, as far as `how` says; `progress` is called with each file's bytes.

    Raises:
        ValueError: naming the files that changed.
    """
    if how != STAT:
        cache.verify(names=[] if how == NONE else None, progress=progress)
        return
    stamps = read_stamps(cache)
    known = read_memory(cache.folder)
    cache.verify(names=[name for name in stamps if known.get(name) != stamps[name]], progress=progress)
    if known != stamps:
        with suppress(OSError):  # where nothing can be written, all is read next time
            atomic_write(hidden_path(cache.folder.absolute(), MEMORY), json.dumps(stamps))


def read_stamps(cache: LatentCache) -> Stamps:
    """Return the checksum that each file should have, its length and its modification time."""
    stamps: dict[str, list[int | str]] = {}
    for name, digest in cache.manifest.digests().items():
        status = (cache.folder / name).stat()
        stamps[name] = [digest, status.st_size, status.st_mtime_ns]
    return stamps


def read_memory(folder: Path) -> Mapping[str, object]:
    """Return what was remembered of the files that were right; nothing if that is missing or damaged."""
    try:
        return read_object(hidden_path(folder.absolute(), MEMORY), limit=None)
    except (OSError, ValueError):
        return {}
