"""Scan a source: read each picture's digest and size, or the item's problem, without keeping pictures in memory."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock

from ldm_train.data.pictures.crops import Size
from ldm_train.data.pictures.decoding import DECODE_ERRORS, describe_decode_error
from ldm_train.data.pictures.map_values import (
    MapError,
    check_aspect,
    describe_map_error,
    describe_unread_map,
    find_map,
    read_map_size,
)
from ldm_train.data.pictures.pixel_values import PixelFormat, read_picture_size
from ldm_train.data.scan.scanned_pictures import Scanned, ScannedPictures
from ldm_train.data.sources.items import EncodedPicture, Item, PictureFile
from ldm_train.util.files import atomic_write
from ldm_train.util.inputs import READ_ERRORS, describe_error
from ldm_train.util.safe_json import read_object

AT_ONCE = 256
SPOOLING = tuple(Lock() for _ in range(16))  # by a digest's first digit, since two threads may write the same picture


@dataclass
class Survey:
    """What a source contains: the items with a usable header, and the problems of the others by key.

    `num_unusable` counts the pictures among the others, without rows of tables that name no picture.
    """

    scanned: ScannedPictures = field(default_factory=ScannedPictures)
    problems: dict[str, str] = field(default_factory=dict)
    num_unusable: int = 0


class NotReadError(Exception):
    """The bytes of a picture or a map cannot be read."""


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

    def recall(self, key: str, stamp: tuple[int, int] | None) -> tuple[str, Size] | None:
        """Return the digest and size of a file if it had this stamp when it was read."""
        known = self.known.get(key)
        if not isinstance(known, list) or len(known) != 5 or stamp is None or list(stamp) != known[:2]:
            return None
        _, _, digest, height, width = known
        return str(digest), (int(str(height)), int(str(width)))

    def keep(self, key: str, digest: str, size: Size, stamp: tuple[int, int] | None) -> None:
        """Remember the result of a file that had this stamp before it was read."""
        if stamp is not None:
            self.kept[key] = [*stamp, digest, *size]

    def save(self) -> None:
        """Write the results of this scan, and only these."""
        atomic_write(self.path, json.dumps(self.kept))


@dataclass(frozen=True)
class ReadPicture:
    """A picture or a map, its bytes (none if it was remembered), their digest, and its (height, width)."""

    picture: EncodedPicture
    content: bytes
    digest: str
    size: Size


@dataclass(frozen=True)
class Scanner:
    """Read pictures and maps of items.

    Args:
        maps: the names of the maps that are read.
        memory, spool, pixels: as in `survey_items`.
    """

    max_pixels: int
    maps: Collection[str]
    memory: ScanMemory | None
    spool: Path | None
    pixels: PixelFormat | None = None

    def __call__(self, item: Item) -> Scanned | str:
        """Return what was read of an item, or why it cannot be used."""
        if item.problem is not None or item.picture is None:
            return item.problem or "no picture"
        try:
            picture = self._read(item.key, item.picture, partial(read_picture_size, pixels=self.pixels))
            maps = {name: self._read_map(item, name, picture.size) for name in self.maps}
        except MapError as error:
            return str(error)
        except NotReadError as error:
            return f"it cannot be read: {error}"
        except DECODE_ERRORS as error:
            return describe_decode_error(error)
        files = {name: self._spooled(one) for name, one in maps.items()}
        lasting = {name: file for name, file in files.items() if file is not None}
        digests = {name: one.digest for name, one in maps.items()}
        return Scanned(replace(item, picture=self._spooled(picture), maps=lasting), picture.digest, picture.size, digests)

    def _spooled(self, seen: ReadPicture) -> EncodedPicture | None:
        return _spool(seen.picture, seen.content, seen.digest, self.spool)

    def _read_map(self, item: Item, name: str, picture: Size) -> ReadPicture:
        """Read a map of a picture of this size.

        Raises:
            MapError: it is missing, cannot be read, or has another aspect ratio than the picture.
        """
        file = find_map(item, name)
        try:
            seen = self._read(f"{item.key}\0{name}", file, read_map_size)
        except NotReadError as error:
            raise MapError(describe_unread_map(name, error.__cause__ or error)) from error
        except DECODE_ERRORS as error:
            raise MapError(describe_map_error(name, error)) from error
        check_aspect(name, seen.size, picture)
        return seen

    def _read(self, key: str, picture: EncodedPicture, measure: Callable[..., Size]) -> ReadPicture:
        """Read a picture or a map, which is remembered under this key.

        Raises:
            NotReadError: its bytes cannot be read.
            DECODE_ERRORS: they are no picture that can be used.
        """
        try:
            stamp = picture.stamp() if self.memory else None
            recalled = self.memory.recall(key, stamp) if self.memory else None
            content = picture.read() if recalled is None or math.prod(recalled[1]) > self.max_pixels else b""
        except READ_ERRORS as error:
            raise NotReadError(str(error) or describe_error(error)) from error
        digest, size = (None if content else recalled) or (
            hashlib.sha256(content).hexdigest(),
            measure(content, max_pixels=self.max_pixels),
        )
        if self.memory:
            self.memory.keep(key, digest, size, stamp)
        return ReadPicture(picture, content, digest, size)


def survey_items(
    items: Iterable[Item],
    *,
    max_pixels: int,
    maps: Collection[str] = (),
    memory: ScanMemory | None = None,
    spool: Path | None = None,
    pixels: PixelFormat | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Survey:
    """Read the bytes of every picture and its maps once, in threads, a few at a time.

    Args:
        maps: the names of the maps that every picture must have; others are not read.
        memory: results of an earlier scan, and where this scan's are stored.
        spool: a folder for copies of a stream's pictures, so that they can be read again; None drops them.
        pixels: the format of values that are read as they are stored; None for 8-bit RGB.
        progress: called for each item.
    """
    survey, scan = Survey(), Scanner(max_pixels, maps, memory, spool, pixels)
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
