"""Plan a cache's content and what must still be encoded: a function of survey, crop and provenance."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ldm_train.data.cache.entries import Entry, name_content
from ldm_train.data.cache.manifest import Provenance, to_json_lines
from ldm_train.data.pictures.crops import Crop, View, format_size
from ldm_train.data.scan.scanned_pictures import Scanned
from ldm_train.data.scan.survey import Survey
from ldm_train.util.files import atomic_write
from ldm_train.util.safe_json import Json, read_json, read_object

CAPTIONS_PER_BATCH = 64  # captions of one forward pass


@dataclass(frozen=True, slots=True)
class PictureRow:
    """One distinct picture to encode, together with its maps.

    Args:
        name: of its row.
        digest: of its bytes.
        key: of an item with this picture and these maps.
        size: upright (height, width).
        maps: digest of each map, by name.
    """

    name: str
    digest: str
    key: str
    size: list[int]
    maps: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """The digest of the picture together with its maps."""
        return name_content(self.digest, self.maps)


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One distinct caption to encode: its row's name, and the text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class EncodingBatch:
    """What one forward pass encodes: pictures of one shape, or captions. Its name is a hash of its rows' names."""

    name: str
    pictures: list[PictureRow]
    captions: list[CaptionRow]

    @property
    def names(self) -> list[str]:
        return [row.name for row in self.pictures] + [row.name for row in self.captions]


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
        unread: problems of pictures whose bytes could not be read this time, by the same.

    Attributes:
        named: the name of each distinct row, by the same.
        first, shapes: a picture with this content, and the (height, width) of its views, by the same.
        rows: the sorted names of each bucket's rows.
        texts: the captions by number, in the order of their rows.
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
        missing = {**unread, **bad}
        self.scanned = sorted((s for s in survey.scanned if s.content not in missing), key=lambda s: s.item.key)
        self.problems = survey.problems | {s.item.key: missing[s.content] for s in survey.scanned if s.content in missing}
        self.bad = {s.item.key: s.content for s in survey.scanned if s.content in bad}
        self.named = {seen.content: pictures.name(seen.content) for seen in self.scanned}
        self.first = {seen.content: seen for seen in reversed(self.scanned)}
        self.shapes = {content: self._shape(seen) for content, seen in self.first.items()}
        rows = defaultdict(list)
        for content, name in self.named.items():
            rows[self.shapes[content]].append(name)
        self.rows = {shape: sorted(names) for shape, names in sorted(rows.items())}
        used = {"", *(text for seen in self.scanned for text in seen.item.captions)}
        self.caption_rows = {text: captions.name(text) for text in used}
        self.texts = sorted(used, key=self.caption_rows.__getitem__)
        if any(seen.item.repeats > 1 for seen in self.scanned):  # the same rows under further keys
            self.scanned = sorted(
                (
                    replace(seen, item=replace(seen.item, key=f"{seen.item.key}#{number}")) if number > 1 else seen
                    for seen in self.scanned
                    for number in range(1, seen.item.repeats + 1)
                ),
                key=lambda seen: seen.item.key,
            )

    def _shape(self, seen: Scanned) -> tuple[int, int]:
        view = self.crop(seen.size, seen.digest)[0]
        return view.height, view.width

    def entries(self) -> list[Entry]:
        """Return all entries, sorted by key."""
        return list(self._iterate_entries())

    def _iterate_entries(self) -> Iterator[Entry]:
        places = {name: row for names in self.rows.values() for row, name in enumerate(names)}
        numbers = {text: number for number, text in enumerate(self.texts)}
        for seen in self.scanned:
            yield Entry(
                key=seen.item.key,
                picture=seen.digest,
                size=list(seen.size),
                bucket=format_bucket(self.shapes[seen.content]),
                row=places[self.named[seen.content]],
                views=[describe_view(view) for view in self.crop(seen.size, seen.digest)],
                captions=[numbers[text] for text in seen.item.captions],
                held_out=seen.item.held_out,
                fields=seen.item.fields,
                maps=seen.maps,
            )

    def batches(self, known: Collection[str], *, pictures: int) -> list[EncodingBatch]:
        """Return the batches of all rows whose names are not known, with this number of pictures each."""
        contents = {name: content for content, name in self.named.items()}
        found = []
        for names in self.rows.values():
            missing = [name for name in names if name not in known]
            for some in _portions(missing, pictures):
                rows = [describe_row(self.first[contents[name]], name) for name in some]
                found.append(EncodingBatch(_name_of(some), rows, []))
        for some in _portions([text for text in self.texts if self.caption_rows[text] not in known], CAPTIONS_PER_BATCH):
            names = [self.caption_rows[text] for text in some]
            found.append(EncodingBatch(_name_of(names), [], [CaptionRow(n, t) for n, t in zip(names, some, strict=True)]))
        return found

    def report(self) -> dict[str, Json]:
        """Return how many pictures are used, and which are left out and why."""
        left_out: list[Json] = []
        for key, problem in sorted(self.problems.items()):
            picture: dict[str, Json] = {"picture": self.bad[key]} if key in self.bad else {}
            left_out.append({"key": key, "problem": problem, **picture})
        return {"used": len(self.scanned), "left_out": left_out}

    def texts_on_disk(self) -> dict[str, str]:
        """Return the content of the cache's text files by name, without the manifest."""
        return {
            "captions.jsonl": to_json_lines(list(self.texts)),
            "entries.jsonl": to_json_lines(entry.as_plain() for entry in self._iterate_entries()),
            "report.json": json.dumps(self.report(), indent=2) + "\n",
        }

    def lost(self) -> dict[str, tuple[int, float]]:
        """Return the number of pictures of each "WIDTHxHEIGHT", and the average share of their area that is cropped away."""
        shares = defaultdict(list)
        for seen in self.scanned:
            shares[format_size(self.shapes[seen.content])].append(self.crop.lost(seen.size))
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


def write_planned_batches(path: Path, batches: list[EncodingBatch]) -> None:
    atomic_write(path, "[" + ",".join(json.dumps(asdict(batch)) for batch in batches) + "]")


def read_planned_batches(path: Path) -> list[EncodingBatch]:
    batches: Any = read_json(path, limit=None)
    return [
        EncodingBatch(b["name"], [PictureRow(**row) for row in b["pictures"]], [CaptionRow(**row) for row in b["captions"]])
        for b in batches
    ]


def _name_of(names: list[str]) -> str:
    return hashlib.sha256("".join(names).encode()).hexdigest()


def _portions(values: list[str], count: int) -> list[list[str]]:
    return [values[i : i + count] for i in range(0, len(values), count)]
