"""Looking at all of a source before anything is paid for: every picture decoded, in parallel; nothing here needs torch."""

import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain, islice

from ldm_train.data.pictures.decoding import DECODE_ERRORS, decode, decode_problem, profile_problem
from ldm_train.data.scan.survey import Seen, Survey
from ldm_train.data.sources.items import FileSlice, Item, PassingPicture, Picture, PictureFile
from ldm_train.util.inputs import READ_ERRORS

FEW = 48  # pictures that are decoded sooner than processes start
KEPT_BYTES = 64 * 2**20  # of a stream's pictures, to be shown and tried


@dataclass(frozen=True)
class Looked:
    """An item whose picture was decoded.

    Args:
        digest: SHA-256 of the picture's bytes; "" where they cannot be had.
        size: (height, width) of the upright picture, pixels.
        problem: why it cannot be used, if so.
        profile: why its colour profile is ignored, if so.
        flat: whether all of it is of one colour.
    """

    item: Item
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    problem: str | None = None
    profile: str | None = None
    flat: bool = False


@dataclass(frozen=True)
class Decoding:
    """How pictures are decoded, and what of it is told; travels to other processes."""

    background: str
    max_pixels: int

    def __call__(self, item: Item) -> Looked:
        digest = ""
        try:
            if item.picture is None:
                return Looked(item, problem=item.problem or "no picture")
            content = item.picture.read()
            digest = hashlib.sha256(content).hexdigest()
            picture = decode(content, background=self.background, max_pixels=self.max_pixels)
            profile = profile_problem(content, max_pixels=self.max_pixels)
        except DECODE_ERRORS as error:
            told = (item.problem, decode_problem(error))
            return Looked(item, digest, problem="; ".join(problem for problem in told if problem))
        flat = all(low == high for low, high in picture.getextrema())  # type: ignore[misc]
        return Looked(item, digest, (picture.height, picture.width), item.problem, profile, flat)

    def told(self, item: Item) -> Looked:
        """The same, without the picture, to be sent back."""
        return replace(self(item), item=replace(item, picture=None))


def inspect(
    items: Iterable[Item], decoding: Decoding, *, workers: int | None = None, progress: Callable[[], None] = lambda: None
) -> Iterator[Looked]:
    """Every item once, in order, decoded in processes, a few at a time.

    A stream's picture is kept in memory as long as those kept have less than `KEPT_BYTES`; of later ones only the words
    remain.

    Args:
        workers: how many processes; as many as the CPU has cores, and none for a few pictures, unless given.
        progress: called for each item.
    """
    rest = iter(items)
    first = list(islice(rest, FEW + 1))
    count = workers or (1 if len(first) <= FEW else os.cpu_count() or 1)
    everything = chain(first, rest)
    kept = 0
    for item, looked in in_processes(everything, decoding, count) if count > 1 else ((i, decoding(i)) for i in everything):
        picture = item.picture
        if isinstance(picture, PassingPicture):
            kept += len(picture.content)
            picture = picture if kept < KEPT_BYTES else None
        yield replace(looked, item=replace(item, picture=picture))
        progress()


def in_processes(items: Iterable[Item], decoding: Decoding, count: int) -> Iterator[tuple[Item, Looked]]:
    """Each item with what was found of it, in order."""
    processes = Processes(decoding, count)
    waiting: deque[tuple[Item, Item, Future[Looked]]] = deque()
    try:
        for item in items:
            waiting.append((item, *processes.start(item)))
            if len(waiting) >= 8 * count:
                item, sent, future = waiting.popleft()
                yield item, processes.answer(sent, future)
        while waiting:
            item, sent, future = waiting.popleft()
            yield item, processes.answer(sent, future)
    finally:
        processes.pool.shutdown(wait=True, cancel_futures=True)


class Processes:
    """Processes that decode; a picture whose decoding ends one is told as such, and the others are decoded all the same."""

    def __init__(self, decoding: Decoding, count: int) -> None:
        self.decoding = decoding
        self.count = count
        self.pool = self._pool(count)

    def _pool(self, count: int) -> ProcessPoolExecutor:
        # Forking a process that has threads is unsafe.
        return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))

    def start(self, item: Item) -> tuple[Item, Future[Looked]]:
        """The item as another process can have it, and the answer to come."""
        if item.picture is None:
            future: Future[Looked] = Future()
            future.set_result(self.decoding.told(item))
            return item, future
        try:
            sent = replace(item, picture=movable(item.picture))
        except READ_ERRORS as error:
            future = Future()
            future.set_result(Looked(item, problem=decode_problem(error)))
            return item, future
        try:
            return sent, self.pool.submit(self.decoding.told, sent)
        except BrokenProcessPool:
            self.pool = self._pool(self.count)
            return sent, self.pool.submit(self.decoding.told, sent)

    def answer(self, sent: Item, future: Future[Looked]) -> Looked:
        """What was found; alone in a process of its own, where the one that had it, or its neighbours', ended."""
        try:
            return future.result()
        except BrokenProcessPool:
            with self._pool(1) as pool:
                try:
                    return pool.submit(self.decoding.told, sent).result()
                except BrokenProcessPool:
                    return Looked(sent, problem="the picture does not decode: it ends the process, as want of memory does")


def movable(picture: Picture | None) -> Picture | None:
    """The picture, or its bytes where another process could not read them."""
    return picture if picture is None or isinstance(picture, PictureFile | FileSlice) else PassingPicture(picture.read())


def surveyed(looked: Iterable[Looked]) -> Survey:
    """What was found, as encoding's own first look gives it."""
    found = Survey()
    for one in looked:
        if one.problem is None:
            found.seen.append(Seen(one.item, one.digest, one.size))
        else:
            found.problems[one.item.key] = one.problem
    return found
