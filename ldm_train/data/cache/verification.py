"""How much of a cache is read before a run trains on it, and by which of its processes.

With "stat", a file is read once: its length and times are remembered next to the cache, and not in it, since a cache must
not depend on times. Of several processes, each reads its share of the files, and all learn what was found.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ldm_train.data.cache.manifest import find_damaged_files
from ldm_train.data.cache.reader import LatentCache
from ldm_train.util.files import atomic_write, hidden_path
from ldm_train.util.safe_json import Json, parse_json, read_object

CONTENT, STAT, NONE = "content", "stat", "none"
MEMORY = ".ldm-train-verified.json"


@dataclass(frozen=True)
class Share:
    """Which part of a task this process has, and how it learns what the others found.

    Args:
        exchange: returns the texts of all processes for this one's; each of them calls it equally often.
    """

    rank: int = 0
    count: int = 1
    exchange: Callable[[str], list[str]] = lambda text: [text]


ALONE = Share()


def verify_cache(
    cache: LatentCache, how: str = CONTENT, *, share: Share = ALONE, progress: Callable[[int], None] = lambda count: None
) -> None:
    """Compare the cache's files with their checksums, as far as `how` says.

    Args:
        how: all files ("content"), those whose length or times changed since they were read ("stat"), or "none".
        share: the process's, which all of them have to call.
        progress: called with each file's bytes.

    Raises:
        ValueError: naming the files that changed, in every process alike.
    """
    digests = cache.manifest.digests()
    own = [] if how == NONE else [*digests][share.rank :: share.count]
    known = read_memory(cache.folder) if how == STAT else {}
    stamps: dict[str, Json] = {}
    try:
        if how == STAT:
            stamps = {name: [digests[name], *read_stamp(cache.folder / name)] for name in own}
        unread = [name for name in own if name not in stamps or known.get(name) != stamps[name]]
        wrong = find_damaged_files(cache.folder, cache.manifest, names=unread, progress=progress)
    except OSError as error:  # which all processes learn, or they would wait for this one
        wrong = {str(error): "cannot be read"}
    texts = share.exchange(json.dumps({"wrong": wrong, "stamps": stamps}))
    cache.refuse_damaged(join_found(texts, "wrong"))
    stamps = join_found(texts, "stamps")
    if share.rank == 0 and stamps != known:
        with suppress(OSError):  # where nothing can be written, all is read next time
            atomic_write(hidden_path(cache.folder.absolute(), MEMORY), json.dumps(stamps))


def join_found(texts: Sequence[str], kind: str) -> dict[str, Json]:
    """Return what all processes found, by file."""
    joined: dict[str, Json] = {}
    for text in texts:
        found = parse_json(text)
        assert isinstance(found, dict)
        own = found[kind]
        assert isinstance(own, dict)
        joined |= own
    return joined


def read_stamp(path: Path) -> list[int]:
    """Return a file's length, and when its content and what is known about it last changed, ns."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def read_memory(folder: Path) -> Mapping[str, object]:
    """Return what was remembered of the files that were right; nothing if that is missing or damaged."""
    try:
        return read_object(hidden_path(folder.absolute(), MEMORY), limit=None)
    except (OSError, ValueError):
        return {}
