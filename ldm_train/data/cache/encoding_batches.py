"""What one forward pass encodes, and the file in which the first process writes it down for all."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ldm_train.data.cache.entries import name_content
from ldm_train.util.files import atomic_write_parts
from ldm_train.util.packed_columns import Column
from ldm_train.util.safe_json import parse_json

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


def make_batch(pictures: Sequence[PictureRow] = (), captions: Sequence[CaptionRow] = ()) -> EncodingBatch:
    """Return a batch with its name."""
    names = [*(row.name for row in pictures), *(row.name for row in captions)]
    return EncodingBatch(hashlib.sha256("".join(names).encode()).hexdigest(), list(pictures), list(captions))


class PlannedBatches(Column[EncodingBatch]):
    """The batches in a file, each of which is read when it is asked for.

    Args:
        path: a JSON array with one batch in each line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = array("Q")
        with path.open("rb") as lines:
            place = len(next(lines))
            for line in lines:
                self._starts.append(place)
                place += len(line)
        self._starts.pop()  # of the closing bracket

    def __len__(self) -> int:
        return len(self._starts)

    def value(self, place: int) -> EncodingBatch:
        with self.path.open("rb") as file:
            file.seek(self._starts[place])
            batch: Any = parse_json(file.readline().rstrip(b",\n"))
        pictures = [PictureRow(**row) for row in batch["pictures"]]
        return EncodingBatch(batch["name"], pictures, [CaptionRow(**row) for row in batch["captions"]])


def write_planned_batches(path: Path, batches: Iterable[EncodingBatch]) -> PlannedBatches:
    """Write batches to a file one by one, and return them as it has them."""
    atomic_write_parts(path, _format_batches(batches))
    return PlannedBatches(path)


def _format_batches(batches: Iterable[EncodingBatch]) -> Iterator[str]:
    yield "["
    for number, batch in enumerate(batches):
        yield f"{',' * (number > 0)}\n{json.dumps(asdict(batch))}"
    yield "\n]"
