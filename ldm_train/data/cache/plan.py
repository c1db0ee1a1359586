"""What a cache will hold, and what is yet to be encoded for it: a function of survey, crop and provenance alone."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ldm_train.data.cache.manifest import Entry, Provenance, lines_of
from ldm_train.data.pictures.crops import Crop, View
from ldm_train.data.scan.survey import Seen, Survey
from ldm_train.util.files import atomic_write
from ldm_train.util.safe_json import Json, read_json, read_object

CAPTIONS = 64  # of one forward pass


@dataclass(frozen=True)
class PictureRow:
    """One distinct picture to encode: its row's name, digest, the item that has it, and its upright (height, width)."""

    name: str
    digest: str
    key: str
    size: list[int]


@dataclass(frozen=True)
class CaptionRow:
    """One distinct caption to encode: its row's name, and the text."""

    name: str
    text: str


@dataclass(frozen=True)
class Batch:
    """What one forward pass encodes: pictures of one shape, or captions; its name is made of its rows'."""

    name: str
    pictures: list[PictureRow]
    captions: list[CaptionRow]

    @property
    def names(self) -> list[str]:
        return [row.name for row in self.pictures] + [row.name for row in self.captions]


def bucket_name(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def shape_of(bucket: str) -> tuple[int, int]:
    height, width = bucket.split("x")
    return int(height), int(width)


class Plan:
    """The rows and entries of a cache.

    Args:
        survey: what the source holds.
        crop: the views of each picture.
        pictures, captions: what rows of moments and of captions are named by.
        bad: digests of pictures that are known not to decode, with their problems.
        unread: digests of those whose bytes could not be had this time, with their problems.

    `rows` are the names of each bucket's rows, sorted; `texts` the captions by number, which are in the order of their rows.
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
        self.seen = sorted((seen for seen in survey.seen if seen.digest not in missing), key=lambda seen: seen.item.key)
        self.problems = survey.problems | {s.item.key: missing[s.digest] for s in survey.seen if s.digest in missing}
        self.bad = {s.item.key: s.digest for s in survey.seen if s.digest in bad}
        self.named = {seen.digest: pictures.name(seen.digest) for seen in self.seen}
        self.first = {seen.digest: seen for seen in reversed(self.seen)}
        self.shapes = {digest: self._shape(seen) for digest, seen in self.first.items()}
        rows = defaultdict(list)
        for digest, name in self.named.items():
            rows[self.shapes[digest]].append(name)
        self.rows = {shape: sorted(names) for shape, names in sorted(rows.items())}
        used = {"", *(text for seen in self.seen for text in seen.item.captions)}
        self.caption_rows = {text: captions.name(text) for text in used}
        self.texts = sorted(used, key=self.caption_rows.__getitem__)

    def _shape(self, seen: Seen) -> tuple[int, int]:
        view = self.crop(seen.size, seen.digest)[0]
        return view.height, view.width

    def entries(self) -> list[Entry]:
        """All entries, by key."""
        places = {name: row for names in self.rows.values() for row, name in enumerate(names)}
        numbers = {text: number for number, text in enumerate(self.texts)}
        return [
            Entry(
                key=seen.item.key,
                picture=seen.digest,
                size=list(seen.size),
                bucket=bucket_name(self.shapes[seen.digest]),
                row=places[self.named[seen.digest]],
                views=[corners(view) for view in self.crop(seen.size, seen.digest)],
                captions=[numbers[text] for text in seen.item.captions],
                held_out=seen.item.held_out,
                fields=seen.item.fields,
            )
            for seen in self.seen
        ]

    def batches(self, known: Collection[str], *, pictures: int) -> list[Batch]:
        """The batches of what is not known by name, each of so many pictures: a function of the sorted rows alone."""
        digests = {name: digest for digest, name in self.named.items()}
        found = []
        for names in self.rows.values():
            missing = [name for name in names if name not in known]
            for some in _portions(missing, pictures):
                seen = [self.first[digests[name]] for name in some]
                rows = [PictureRow(n, s.digest, s.item.key, list(s.size)) for n, s in zip(some, seen, strict=True)]
                found.append(Batch(_name_of(some), rows, []))
        for some in _portions([text for text in self.texts if self.caption_rows[text] not in known], CAPTIONS):
            names = [self.caption_rows[text] for text in some]
            found.append(Batch(_name_of(names), [], [CaptionRow(n, t) for n, t in zip(names, some, strict=True)]))
        return found

    def report(self) -> dict[str, Json]:
        """How many can be used, and what is left out and why."""
        left_out: list[Json] = []
        for key, problem in sorted(self.problems.items()):
            picture: dict[str, Json] = {"picture": self.bad[key]} if key in self.bad else {}
            left_out.append({"key": key, "problem": problem, **picture})
        return {"used": len(self.seen), "left_out": left_out}

    def texts_on_disk(self) -> dict[str, str]:
        """The cache's files of text, without the manifest."""
        return {
            "captions.jsonl": lines_of(list(self.texts)),
            "entries.jsonl": lines_of(asdict(entry) for entry in self.entries()),
            "report.json": json.dumps(self.report(), indent=2) + "\n",
        }

    def lost(self) -> dict[str, tuple[int, float]]:
        """Of each bucket the number of pictures, and the share of their area that the crop cuts away, on average."""
        shares = defaultdict(list)
        for seen in self.seen:
            shares[bucket_name(self.shapes[seen.digest])].append(self.crop.lost(seen.size))
        return {bucket: (len(lost), sum(lost) / len(lost)) for bucket, lost in sorted(shares.items())}


def corners(view: View) -> list[int]:
    """A view as an entry keeps it, for size conditioning."""
    return [view.resized_height, view.resized_width, view.top, view.left, int(view.mirrored)]


def known_bad(report: Path) -> dict[str, str]:
    """Digests of pictures that an earlier encoding could not decode, with their problems."""
    if not report.is_file():
        return {}
    left_out = read_object(report, limit=None).get("left_out")
    rows = [told for told in left_out if isinstance(told, dict)] if isinstance(left_out, list) else []
    return {str(told["picture"]): str(told.get("problem")) for told in rows if "picture" in told}


def write_batches(path: Path, batches: list[Batch]) -> None:
    atomic_write(path, json.dumps([asdict(batch) for batch in batches]))


def read_batches(path: Path) -> list[Batch]:
    told: Any = read_json(path, limit=None)
    return [
        Batch(b["name"], [PictureRow(**row) for row in b["pictures"]], [CaptionRow(**row) for row in b["captions"]])
        for b in told
    ]


def _name_of(names: list[str]) -> str:
    return hashlib.sha256("".join(names).encode()).hexdigest()


def _portions(values: list[str], count: int) -> list[list[str]]:
    return [values[i : i + count] for i in range(0, len(values), count)]
