"""Looking at all of a source before anything is paid for: every picture decoded, in parallel; nothing here needs torch."""

import hashlib
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain, islice

from ldm_train.data.decoding import DECODE_ERRORS, decode, decode_problem, profile_problem
from ldm_train.data.items import FileSlice, Item, PassingPicture, Picture, PictureFile
from ldm_train.data.plan import Plan
from ldm_train.data.survey import Seen, Survey

TINY = 4  # enlarged by more than this, a picture has hardly anything to learn from
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
        except (*DECODE_ERRORS, MemoryError) as error:
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
        try:
            sent = replace(item, picture=movable(item.picture))
        except DECODE_ERRORS as error:
            future: Future[Looked] = Future()
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


@dataclass(frozen=True)
class Copies:
    """Pictures of the same bytes: their keys, and whether their captions differ, or one alone is held out."""

    digest: str
    keys: list[str]
    captions_differ: bool
    split_differs: bool


def copies(looked: Sequence[Looked]) -> list[Copies]:
    """All pictures that are there more than once."""
    groups: dict[str, list[Item]] = {}
    for one in looked:
        groups.setdefault(one.digest, []).append(one.item)
    return [
        Copies(
            digest,
            sorted(item.key for item in items),
            captions_differ=len({item.captions for item in items}) > 1,
            split_differs=len({item.held_out for item in items}) > 1,
        )
        for digest, items in sorted(groups.items())
        if len(items) > 1
    ]


@dataclass(frozen=True)
class CaptionFacts:
    """The captions of pictures.

    Args:
        distinct: how many different ones.
        longest: how many tokens the longest has.
        several: pictures that have more than one.
        common: captions that more than one picture has, with their numbers of pictures, the most frequent first.
        capacity: how many tokens the text encoder keeps of one.
        cut: distinct captions that have more, with their numbers of tokens, the longest first.
        pictures_cut: pictures that have such a caption.
    """

    distinct: int
    longest: int
    several: int
    common: list[tuple[str, int]]
    capacity: int
    cut: list[tuple[str, int]]
    pictures_cut: int


def caption_facts(items: Sequence[Item], count: Callable[[list[str]], list[int]], capacity: int) -> CaptionFacts:
    """Of items and of what their captions come to in tokens."""
    frequent = Counter(caption for item in items for caption in set(item.captions))
    texts = sorted(frequent)
    tokens = dict(zip(texts, count(texts), strict=True))
    cut = {text: number for text, number in tokens.items() if number > capacity}
    return CaptionFacts(
        distinct=len(texts),
        longest=max(tokens.values(), default=0),
        several=sum(len(set(item.captions)) > 1 for item in items),
        common=sorted(((c, n) for c, n in frequent.items() if n > 1), key=lambda pair: (-pair[1], pair[0])),
        capacity=capacity,
        cut=sorted(cut.items(), key=lambda pair: (-pair[1], pair[0])),
        pictures_cut=sum(any(caption in cut for caption in item.captions) for item in items),
    )


@dataclass(frozen=True)
class PictureFacts:
    """The pictures of a source.

    Args:
        items, usable, held_out, distinct: how many there are, can be used, are kept from training, and differ.
        unusable: the others' problems, by key.
        enlarged: by how much pictures are enlarged, by key, where they are.
        copies: pictures of the same bytes.
        profiles: why a colour profile is ignored, by key.
        flat: keys of pictures of one colour.
        buckets: of each shape the number of pictures, and the share of their area that is cut away.
    """

    items: int
    usable: int
    held_out: int
    distinct: int
    unusable: dict[str, str]
    enlarged: dict[str, float]
    copies: list[Copies]
    profiles: dict[str, str]
    flat: list[str]
    buckets: dict[str, tuple[int, float]]

    @property
    def tiny(self) -> dict[str, float]:
        return {key: factor for key, factor in self.enlarged.items() if factor > TINY}


def picture_facts(looked: Sequence[Looked], plan: Plan | None) -> PictureFacts:
    """Of all items, and of how they are cut."""
    good = sorted((one for one in looked if one.problem is None), key=lambda one: one.item.key)
    scales = {} if plan is None else {one.item.key: plan.crop.scale(one.size) for one in good}
    return PictureFacts(
        items=len(looked),
        usable=len(good),
        held_out=sum(one.item.held_out for one in good),
        distinct=len({one.digest for one in good}),
        unusable={one.item.key: one.problem for one in sorted(looked, key=lambda one: one.item.key) if one.problem},
        enlarged={key: round(factor, 3) for key, factor in scales.items() if factor > 1},
        copies=copies(good),
        profiles={one.item.key: one.profile for one in good if one.profile},
        flat=[one.item.key for one in good if one.flat],
        buckets={} if plan is None else plan.lost(),
    )
