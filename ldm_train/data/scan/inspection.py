"""Decode every picture of a source in parallel, to find problems before a training; torch is not needed."""

import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from ldm_train.data.pictures.crops import Size
from ldm_train.data.pictures.decoding import (
    DECODE_ERRORS,
    decode_picture,
    describe_decode_error,
    find_profile_problem,
    has_more_frames,
)
from ldm_train.data.pictures.map_values import (
    MapError,
    MapSpec,
    check_aspect,
    describe_map_error,
    describe_unread_map,
    find_map,
    read_map,
)
from ldm_train.data.pictures.pixel_values import PixelFormat
from ldm_train.data.scan.scanned_pictures import Scanned
from ldm_train.data.scan.survey import Survey
from ldm_train.data.sources.items import EncodedPicture, FileSlice, Item, PictureBytes, PictureFile
from ldm_train.util.inputs import READ_ERRORS

FEW_PICTURES = 48  # decoding these takes less time than starting processes
KEPT_BYTES = 64 * 2**20  # of a stream's pictures, which `check` shows and tries to encode


@dataclass(frozen=True)
class Inspected:
    """An item whose picture was decoded.

    Args:
        digest: SHA-256 of the picture's bytes; "" if they cannot be read.
        size: (height, width) of the upright picture, pixels.
        problem: why it cannot be used, None if it can.
        profile: why its colour profile is ignored, None if it is not.
        flat: whether all pixels have one colour.
        brightest: the largest value of any channel, 0 to 255.
        more_frames: whether the file has further pages or frames, which are not used.
        maps: SHA-256 of each map's bytes, by name.
    """

    item: Item
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    problem: str | None = None
    profile: str | None = None
    flat: bool = False
    brightest: float = 255
    more_frames: bool = False
    maps: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoder:
    """Decode pictures with their maps and describe the result. It is pickled for worker processes.

    Args:
        maps: the maps that every picture must have.
        pixels: the format of values that are read as they are stored; None for 8-bit RGB.
    """

    background: str
    max_pixels: int
    maps: tuple[MapSpec, ...] = ()
    pixels: PixelFormat | None = None

    def __call__(self, item: Item) -> Inspected:
        digest = ""
        try:
            if item.picture is None:
                return Inspected(item, problem=item.problem or "no picture")
            content = item.picture.read()
            digest = hashlib.sha256(content).hexdigest()
            picture, extrema = self._decode(content)
            profile = None if self.pixels else find_profile_problem(content, max_pixels=self.max_pixels)
            maps = {spec.name: self._decode_map(item, spec, picture) for spec in self.maps}
        except DECODE_ERRORS as error:
            problems = (item.problem, str(error) if isinstance(error, MapError) else describe_decode_error(error))
            return Inspected(item, digest, problem="; ".join(problem for problem in problems if problem))
        return Inspected(
            item,
            digest,
            picture,
            item.problem,
            profile,
            flat=all(low == high for low, high in extrema),
            brightest=max(high for _, high in extrema),
            more_frames=has_more_frames(content, max_pixels=self.max_pixels),
            maps=maps,
        )

    def _decode(self, content: bytes) -> tuple[Size, list[tuple[float, float]]]:
        """Decode a picture; return its (height, width), and the least and the largest value of each channel, 0 to 255."""
        if self.pixels is None:
            picture = decode_picture(content, background=self.background, max_pixels=self.max_pixels)
            return (picture.height, picture.width), list(picture.getextrema())  # type: ignore[arg-type]
        values = self.pixels.read(content, background=self.background, max_pixels=self.max_pixels)
        height, width, channels = values.shape
        scaled = [(values[..., channel] + 1) * 127.5 for channel in range(channels)]
        return (height, width), [(float(channel.min()), float(channel.max())) for channel in scaled]

    def _decode_map(self, item: Item, spec: MapSpec, picture: Size) -> str:
        """Decode a map of a picture of this size, and return the digest of its bytes.

        Raises:
            MapError: it is missing, does not decode, or has another aspect ratio than the picture.
        """
        file = find_map(item, spec.name)
        try:
            content = file.read()
        except READ_ERRORS as error:
            raise MapError(describe_unread_map(spec.name, error)) from error
        try:
            values = read_map(content, spec, background=self.background, max_pixels=self.max_pixels)
        except DECODE_ERRORS as error:
            raise MapError(describe_map_error(spec.name, error)) from error
        check_aspect(spec.name, values.shape[:2], picture)
        return hashlib.sha256(content).hexdigest()

    def inspect(self, item: Item) -> Inspected:
        """Return the result without the bytes of the picture and its maps, to be sent to another process."""
        return replace(self(item), item=replace(item, picture=None, maps={}))


def inspect_items(
    items: Iterable[Item], decoder: Decoder, *, workers: int | None = None, progress: Callable[[], None] = lambda: None
) -> Iterator[Inspected]:
    """Yield each item once, in order, after decoding its picture.

    The first `KEPT_BYTES` of a stream's pictures are kept in memory; later items have no picture. Maps of streams are not.

    Args:
        workers: how many processes; by default one for each core, and none for a few pictures.
        progress: called for each item.
    """
    rest = iter(items)
    first = list(islice(rest, FEW_PICTURES + 1))
    count = workers or (1 if len(first) <= FEW_PICTURES else os.cpu_count() or 1)
    everything = chain(first, rest)
    kept = 0
    results = inspect_in_processes(everything, decoder, count) if count > 1 else ((i, decoder(i)) for i in everything)
    for item, inspected in results:
        picture = item.picture
        if isinstance(picture, PictureBytes):
            kept += len(picture.content)
            picture = picture if kept < KEPT_BYTES else None
        maps = {name: one for name, one in item.maps.items() if one.lasting}
        yield replace(inspected, item=replace(item, picture=picture, maps=maps))
        progress()


def inspect_in_processes(items: Iterable[Item], decoder: Decoder, count: int) -> Iterator[tuple[Item, Inspected]]:
    """Yield each item with its result, in order."""
    pool = DecodingPool(decoder, count)
    waiting: deque[tuple[Item, Item, Future[Inspected]]] = deque()
    try:
        for item in items:
            waiting.append((item, *pool.submit(item)))
            if len(waiting) >= 8 * count:
                item, sent, future = waiting.popleft()
                yield item, pool.result(sent, future)
        while waiting:
            item, sent, future = waiting.popleft()
            yield item, pool.result(sent, future)
    finally:
        pool.processes.shutdown(wait=True, cancel_futures=True)


class DecodingPool:
    """Decode pictures in worker processes and survive a picture that crashes its worker.

    A crash breaks the whole pool, so it is rebuilt, and every picture that was in flight is retried alone: only the one that
    crashes again is reported as undecodable.
    """

    def __init__(self, decoder: Decoder, count: int) -> None:
        self.decoder = decoder
        self.count = count
        self.processes = self._start(count)

    def _start(self, count: int) -> ProcessPoolExecutor:
        # Forking a process that has threads is unsafe.
        return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))

    def submit(self, item: Item) -> tuple[Item, Future[Inspected]]:
        """Return the item as it was sent to a process, and its future result."""
        if item.picture is None:
            future: Future[Inspected] = Future()
            future.set_result(self.decoder.inspect(item))
            return item, future
        try:
            maps = {spec.name: as_picklable(item.maps[spec.name]) for spec in self.decoder.maps if spec.name in item.maps}
            sent = replace(item, picture=as_picklable(item.picture), maps=maps)
        except READ_ERRORS as error:
            future = Future()
            future.set_result(Inspected(item, problem=describe_decode_error(error)))
            return item, future
        try:
            return sent, self.processes.submit(self.decoder.inspect, sent)
        except BrokenProcessPool:
            self.processes = self._start(self.count)
            return sent, self.processes.submit(self.decoder.inspect, sent)

    def result(self, sent: Item, future: Future[Inspected]) -> Inspected:
        """Return the result of one picture, retrying it in a process of its own if the pool broke."""
        try:
            return future.result()
        except BrokenProcessPool:
            with self._start(1) as process:
                try:
                    return process.submit(self.decoder.inspect, sent).result()
                except BrokenProcessPool:
                    problem = "the picture does not decode: it crashes the process, as a lack of memory does"
                    return Inspected(sent, problem=problem)


def as_picklable(picture: EncodedPicture) -> EncodedPicture:
    """Return the picture, or its bytes if another process could not read them."""
    return picture if isinstance(picture, PictureFile | FileSlice) else PictureBytes(picture.read())


def survey_from_inspection(inspected: Iterable[Inspected]) -> Survey:
    """Return the survey that `survey_items` would return for these items."""
    survey = Survey()
    for one in inspected:
        if one.problem is None:
            survey.scanned.append(Scanned(one.item, one.digest, one.size, one.maps))
        else:
            survey.problems[one.item.key] = one.problem
    return survey
