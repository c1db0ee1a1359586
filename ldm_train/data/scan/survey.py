"""The first look at a source: every picture's digest and size, each item's problem, and no picture held in memory."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from threading import Lock

from ldm_train.data.pictures.decoding import DECODE_ERRORS, decode_problem, upright_size
from ldm_train.data.sources.items import Item, Picture, PictureFile
from ldm_train.util.files import atomic_write
from ldm_train.util.inputs import READ_ERRORS, describe_error
from ldm_train.util.safe_json import read_object

AT_ONCE = 256
SPOOLING = tuple(Lock() for _ in range(16))  # by a digest's first digit: two threads may have the same picture


@dataclass(frozen=True)
class Seen:
    """An item whose bytes were read: their SHA-256, and the upright picture's (height, width) in pixels."""

    item: Item
    digest: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Survey:
    """What a source holds: the items that can be used as far as a header tells, and the others' problems by key."""

    seen: list[Seen] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


class Memory:
    """Digests and sizes of files that were read before, believed while a file's length and time of change stay.

    It is next to the cache, not in it, for it holds times.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.known = read_object(path, limit=None)
        except (OSError, ValueError):  # none yet, or damaged: everything is read
            self.known = {}
        self.met: dict[str, list[int | str]] = {}

    def recall(self, item: Item, stamp: tuple[int, int] | None) -> tuple[str, tuple[int, int]] | None:
        """Digest and size of a file that still has this stamp."""
        known = self.known.get(item.key)
        if not isinstance(known, list) or len(known) != 5 or stamp is None or list(stamp) != known[:2]:
            return None
        _, _, digest, height, width = known
        return str(digest), (int(str(height)), int(str(width)))

    def keep(self, seen: Seen, stamp: tuple[int, int] | None) -> None:
        """What was read of a file that had this stamp before."""
        if stamp is not None:
            self.met[seen.item.key] = [*stamp, seen.digest, *seen.size]

    def save(self) -> None:
        atomic_write(self.path, json.dumps(self.met))


def survey(
    items: Iterable[Item],
    *,
    max_pixels: int,
    memory: Memory | None = None,
    spool: Path | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Survey:
    """Read every picture's bytes once, in threads, a few at a time.

    Args:
        spool: a folder where pictures of a stream are put, so that they can be read again; without it they are let go.
        progress: called for each item.
    """
    found = Survey()

    def look(item: Item) -> Seen | str:
        if item.problem is not None or item.picture is None:
            return item.problem or "no picture"
        try:
            stamp = item.picture.stamp() if memory else None
            recalled = memory.recall(item, stamp) if memory else None
            content = item.picture.read() if recalled is None or math.prod(recalled[1]) > max_pixels else b""
        except READ_ERRORS as error:
            return f"it cannot be read: {str(error) or describe_error(error)}"
        try:
            digest, size = (None if content else recalled) or (
                hashlib.sha256(content).hexdigest(),
                upright_size(content, max_pixels=max_pixels),
            )
        except DECODE_ERRORS as error:
            return decode_problem(error)
        seen = Seen(replace(item, picture=_lasting(item.picture, content, digest, spool)), digest, size)
        if memory:
            memory.keep(seen, stamp)
        return seen

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for some in _portions(items):
            for item, answer in zip(some, threads.map(look, some), strict=True):
                if isinstance(answer, Seen):
                    found.seen.append(answer)
                else:
                    found.problems[item.key] = answer
                progress()
    if memory:
        memory.save()
    return found


def _portions(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while some := list(islice(rest, AT_ONCE)):
        yield some


def _lasting(picture: Picture, content: bytes, digest: str, spool: Path | None) -> Picture | None:
    """The picture, or a copy of a passing one in the spool."""
    if picture.lasting or spool is None:
        return picture if picture.lasting else None
    kept = spool / digest
    with SPOOLING[int(digest[0], 16)]:
        if not kept.is_file():
            atomic_write(kept, content)
    return PictureFile(kept)
