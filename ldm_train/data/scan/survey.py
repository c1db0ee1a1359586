"""Scan a source: read each picture's digest and size, or the item's problem, without keeping pictures in memory."""

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

from ldm_train.data.pictures.decoding import DECODE_ERRORS, describe_decode_error, read_upright_size
from ldm_train.data.sources.items import EncodedPicture, Item, PictureFile
from ldm_train.util.files import atomic_write
from ldm_train.util.inputs import READ_ERRORS, describe_error
from ldm_train.util.safe_json import read_object

AT_ONCE = 256
SPOOLING = tuple(Lock() for _ in range(16))  # by a digest's first digit, since two threads may write the same picture


@dataclass(frozen=True)
class Scanned:
    """An item with the SHA-256 of its picture's bytes, and the upright picture's (height, width) in pixels."""

    item: Item
    digest: str
    size: tuple[int, int]


@dataclass
class Survey:
    """What a source contains: the items with a usable header, and the problems of the others by key.

    `num_unusable` counts the pictures among the others, without rows of tables that name no picture.
    """

    scanned: list[Scanned] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    num_unusable: int = 0


class ScanMemory:
    """Digests and sizes of files that were read before, used again while a file's length and modification time are the same.

    It is stored next to the cache and not in it, since a cache must not depend on times.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.known = read_object(path, limit=None)
        except (OSError, ValueError):  # missing or damaged: all files are read again
            self.known = {}
        self.kept: dict[str, list[int | str]] = {}

    def recall(self, item: Item, stamp: tuple[int, int] | None) -> tuple[str, tuple[int, int]] | None:
        """Return the digest and size of a file if it had this stamp when it was read."""
        known = self.known.get(item.key)
        if not isinstance(known, list) or len(known) != 5 or stamp is None or list(stamp) != known[:2]:
            return None
        _, _, digest, height, width = known
        return str(digest), (int(str(height)), int(str(width)))

    def keep(self, scanned: Scanned, stamp: tuple[int, int] | None) -> None:
        """Remember the result of a file that had this stamp before it was read."""
        if stamp is not None:
            self.kept[scanned.item.key] = [*stamp, scanned.digest, *scanned.size]

    def save(self) -> None:
        """Write the results of this scan, and only these."""
        atomic_write(self.path, json.dumps(self.kept))


def survey_items(
    items: Iterable[Item],
    *,
    max_pixels: int,
    memory: ScanMemory | None = None,
    spool: Path | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Survey:
    """Read every picture's bytes once, in threads, a few at a time.

    Args:
        memory: results of an earlier scan, and where this scan's are stored.
        spool: a folder for copies of a stream's pictures, so that they can be read again; None drops them.
        progress: called for each item.
    """
    survey = Survey()

    def scan(item: Item) -> Scanned | str:
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
                read_upright_size(content, max_pixels=max_pixels),
            )
        except DECODE_ERRORS as error:
            return describe_decode_error(error)
        scanned = Scanned(replace(item, picture=_spool(item.picture, content, digest, spool)), digest, size)
        if memory:
            memory.keep(scanned, stamp)
        return scanned

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for some in _portions(items):
            for item, answer in zip(some, threads.map(scan, some), strict=True):
                if isinstance(answer, Scanned):
                    survey.scanned.append(answer)
                else:
                    survey.problems[item.key] = answer
                    survey.num_unusable += item.picture is not None
                progress()
    if memory:
        memory.save()
    return survey


def _portions(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while some := list(islice(rest, AT_ONCE)):
        yield some


def _spool(picture: EncodedPicture, content: bytes, digest: str, spool: Path | None) -> EncodedPicture | None:
    """Return the picture if it can be read again, else its copy in the spool; None without a spool."""
    if picture.lasting or spool is None:
        return picture if picture.lasting else None
    kept = spool / digest
    with SPOOLING[int(digest[0], 16)]:
        if not kept.is_file():
            atomic_write(kept, content)
    return PictureFile(kept)
