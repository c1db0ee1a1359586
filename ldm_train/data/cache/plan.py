"""Plan a cache's content and what must still be encoded: a function of survey, crop and provenance.

What there is for each picture is a column of numbers or digests, since a source may have millions of pictures.
"""

import json
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ldm_train.data.cache.encoding_batches import CAPTIONS_PER_BATCH, CaptionRow, EncodingBatch, PictureRow, make_batch
from ldm_train.data.cache.entries import Entry
from ldm_train.data.cache.manifest import Provenance, iterate_json_lines
from ldm_train.data.pictures.crops import Crop, Size, View, format_size
from ldm_train.data.scan.ordered_pictures import OrderedPictures
from ldm_train.data.scan.scanned_pictures import Scanned
from ldm_train.data.scan.survey import Survey
from ldm_train.util.packed_columns import DigestColumn, Selection, sort_places
from ldm_train.util.safe_json import Json, read_object

Value = TypeVar("Value")


def format_bucket(shape: tuple[int, int]) -> str:
    """Return the name of the bucket with this (height, width)."""
    return f"{shape[0]}x{shape[1]}"


def parse_bucket(bucket: str) -> tuple[int, int]:
    """Return the (height, width) of a bucket's name."""
    height, width = bucket.split("x")
    return int(height), int(width)


class CachePlan:
    """The rows and entries of a cache.

    Args:
        survey: what the source contains.
        crop: decides the views of each picture.
        pictures, captions: decide the names of rows of moments and of captions.
        bad: problems of pictures that cannot be decoded, by the digest of the picture together with its maps.
        unread: problems of pictures that could not be read this time, by the same.

    Attributes:
        scanned: the pictures in the order of their keys, one for each entry.
        problems: why the others are left out, by key.
        rows: the sorted names of each bucket's rows, by the (height, width) of its views.
        distinct: a picture for each row, in the order of the buckets and of the rows in them.
        texts: the captions by number, in the order of their rows.
        caption_names: the names of these rows.
        empty: the number of the empty caption.
    """

    def __init__(
        self,
        survey: Survey,
        crop: Crop,
        *,
        pictures: Provenance,
        captions: Provenance,
        bad: Mapping[str, str],
        unread: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.crop = crop
        self.found = survey.scanned
        missing = {**unread, **bad}
        left_out = {self.found.keys[n]: c for n, c in enumerate(self.found.contents) if c in missing} if missing else {}
        self.problems = survey.problems | {key: missing[content] for key, content in left_out.items()}
        self.bad = {key: content for key, content in left_out.items() if content in bad}
        order = sort_places(self.found.keys)
        if left_out:
            order = order[[self.found.keys[place] not in left_out for place in order.tolist()]]
        self.scanned = OrderedPictures(self.found, order)
        self._name_rows(order, pictures)
        self._name_captions(order, captions)

    def _name_rows(self, order: NDArray[np.int64], pictures: Provenance) -> None:
        """Name the distinct pictures, and sort them by shape and name."""
        contents = self.found.contents
        _, first, number = np.unique(contents.array()[order], return_index=True, return_inverse=True)
        first = order[first]
        names = DigestColumn.of(pictures.name(contents[place]) for place in first.tolist()).array()
        shapes = np.array([self._shape(place) for place in first.tolist()], np.int32).reshape(-1, 2)
        by_name = np.lexsort((names, shapes[:, 1], shapes[:, 0]))
        rank = np.empty(len(first), np.int32)
        rank[by_name] = np.arange(len(first), dtype=np.int32)
        self._row_of = np.full(len(self.found), -1, np.int32)  # of each scanned picture
        self._row_of[order] = rank[number]
        self._examples = first[by_name]
        self.distinct = Selection(self.found, self._examples)
        buckets, counts = np.unique(shapes, axis=0, return_counts=True)
        self._bucket_ends = counts.cumsum()
        self.rows = {
            (height, width): DigestColumn(names[by_name[end - count : end]].tobytes())
            for (height, width), end, count in zip(
                buckets.tolist(), self._bucket_ends.tolist(), counts.tolist(), strict=True
            )
        }

    def _name_captions(self, order: NDArray[np.int64], captions: Provenance) -> None:
        """Name the distinct captions, and sort them by name."""
        used = np.zeros(len(self.found.texts), bool)
        used[0] = True
        for place in order.tolist():
            used[self.found.text_start(place) : self.found.text_ends[place]] = True
        (places,) = used.nonzero()
        names = DigestColumn.of(captions.name(self.found.texts[place]) for place in places.tolist())
        distinct, first, number = np.unique(names.array(), return_index=True, return_inverse=True)
        self._text_numbers = np.zeros(len(used), np.int32)
        self._text_numbers[places] = number
        self.texts = Selection(self.found.texts, places[first])
        self.caption_names = DigestColumn(distinct.tobytes())
        self.empty = int(self._text_numbers[0])

    def _shape(self, place: int) -> tuple[int, int]:
        return self.shape(self.found.size(place), self.found.digest(place))

    def shape(self, size: Size, digest: str) -> tuple[int, int]:
        """Return the (height, width) of the views of a picture of this size."""
        view = self.crop(size, digest)[0]
        return view.height, view.width

    def entries(self) -> list[Entry]:
        """Return all entries, sorted by key."""
        return list(self.iterate_entries())

    def iterate_entries(self) -> Iterator[Entry]:
        """Yield all entries, sorted by key."""
        buckets = [format_bucket(shape) for shape in self.rows]
        ends = [0, *self._bucket_ends.tolist()]
        for number, place in enumerate(self.scanned.places.tolist()):
            row = int(self._row_of[place])
            bucket = bisect_right(ends, row) - 1
            size, digest = self.found.size(place), self.found.digest(place)
            yield Entry(
                key=self.scanned.key(number),
                picture=digest,
                size=list(size),
                bucket=buckets[bucket],
                row=row - ends[bucket],
                views=[describe_view(view) for view in self.crop(size, digest)],
                captions=self._text_numbers[self.found.text_start(place) : self.found.text_ends[place]].tolist(),
                held_out=bool(self.found.held_out[place]),
                fields=self.found.fields(place),
                maps=self.found.map_digests(place),
            )

    def batches(self, known: Container[str], *, pictures: int) -> Iterator[EncodingBatch]:
        """Yield the batches of the rows that are not among the known ones, with this number of pictures each."""
        row = 0
        for names in self.rows.values():
            missing = (place for place, name in enumerate(names) if name not in known)
            for some in _portions(missing, pictures):
                yield make_batch([self._describe(row + place, names[place]) for place in some])
            row += len(names)
        unknown = (place for place, name in enumerate(self.caption_names) if name not in known)
        for some in _portions(unknown, CAPTIONS_PER_BATCH):
            yield make_batch((), [CaptionRow(self.caption_names[place], self.texts[place]) for place in some])

    def _describe(self, row: int, name: str) -> PictureRow:
        place = int(self._examples[row])
        size, maps = list(self.found.size(place)), self.found.map_digests(place)
        return PictureRow(name, self.found.digest(place), self.found.keys[place], size, maps)

    def contents_of(self, names: Mapping[str, Value]) -> dict[str, Value]:
        """Return values of rows, by the digest of the picture together with its maps instead of the row's name."""
        every = (name for rows in self.rows.values() for name in rows)
        places = zip(every, self._examples.tolist(), strict=True)
        return {self.found.contents[place]: names[name] for name, place in places if name in names}

    def count_known(self, known: Container[str]) -> int:
        """Return how many scanned pictures have a row among the known ones."""
        rows = [name in known for names in self.rows.values() for name in names]
        return int(np.array(rows, bool)[self._row_of[self._row_of >= 0]].sum())

    def report(self) -> dict[str, Json]:
        """Return how many pictures are used, and which are left out and why."""
        left_out: list[Json] = []
        for key, problem in sorted(self.problems.items()):
            picture: dict[str, Json] = {"picture": self.bad[key]} if key in self.bad else {}
            left_out.append({"key": key, "problem": problem, **picture})
        return {"used": len(self.scanned), "left_out": left_out}

    def texts_on_disk(self) -> dict[str, Iterator[str]]:
        """Return the content of the cache's text files by name, in parts and without the manifest."""
        return {
            "captions.jsonl": iterate_json_lines(self.texts),
            "entries.jsonl": iterate_json_lines(entry.as_plain() for entry in self.iterate_entries()),
            "report.json": iter([json.dumps(self.report(), indent=2) + "\n"]),
        }

    def lost(self) -> dict[str, tuple[int, float]]:
        """Return the number of pictures of each "WIDTHxHEIGHT", and the average share of their area that is cropped away."""
        shapes, ends = list(self.rows), [0, *self._bucket_ends.tolist()]
        shares: dict[str, array[float]] = defaultdict(lambda: array("d"))
        for place in self.scanned.places.tolist():
            bucket = format_size(shapes[bisect_right(ends, int(self._row_of[place])) - 1])
            shares[bucket].append(self.crop.lost(self.found.size(place)))
        return {bucket: (len(lost), sum(lost) / len(lost)) for bucket, lost in sorted(shares.items())}


def describe_row(seen: Scanned, name: str = "") -> PictureRow:
    """Return the row of a picture under a name."""
    return PictureRow(name, seen.digest, seen.item.key, list(seen.size), seen.maps)


def describe_view(view: View) -> list[int]:
    """Return a view as entries store it, for size conditioning."""
    return [view.resized_height, view.resized_width, view.top, view.left, int(view.mirrored)]


def read_undecodable(report: Path) -> dict[str, str]:
    """Return the problems of pictures that an earlier encoding could not decode, as in `CachePlan`."""
    if not report.is_file():
        return {}
    left_out = read_object(report, limit=None).get("left_out")
    rows = [row for row in left_out if isinstance(row, dict)] if isinstance(left_out, list) else []
    return {str(row["picture"]): str(row.get("problem")) for row in rows if "picture" in row}


def _portions(values: Iterable[int], count: int) -> Iterator[list[int]]:
    rest = iter(values)
    while some := list(islice(rest, count)):
        yield some
