"""The pictures of a source that were scanned, as columns: a million of them take about a hundred bytes each."""

import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ldm_train.data.cache.entries import name_content
from ldm_train.data.pictures.crops import Size
from ldm_train.data.sources.items import EncodedPicture, FileSlice, Item, PictureFile, TablePicture
from ldm_train.util.packed_columns import Column, DigestColumn, TextColumn
from ldm_train.util.safe_json import parse_json


@dataclass(frozen=True, slots=True)
class Scanned:
    """An item with the SHA-256 of its picture's and its maps' bytes, and the upright picture's (height, width) in pixels."""

    item: Item
    digest: str
    size: Size
    maps: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """The digest of the picture together with its maps."""
        return name_content(self.digest, self.maps)


class ScannedPictures(Column[Scanned]):
    """Scanned items, each of which is made anew when it is asked for, without its origin.

    Attributes:
        keys: of the items.
        contents: digests of the pictures together with their maps.
        texts: the captions of all items, after the empty one.
        text_ends: where each item's captions end in `texts`.
        held_out: whether each is held out from training.
        repeats: how often an epoch has an item, by place, where it is not once.
    """

    def __init__(self, scanned: Iterable[Scanned] = ()) -> None:
        self.keys = TextColumn()
        self.contents = DigestColumn()
        self.texts = TextColumn([""])
        self.text_ends = array("Q")
        self.held_out = bytearray()
        self.repeats: dict[int, int] = {}
        self._pictures = PictureColumn()
        self._sizes = array("I")
        self._fields = TextColumn()  # JSON, or nothing
        self._digests = DigestColumn()  # of pictures with maps, whose content is another one
        self._maps: dict[str, PictureColumn] = {}
        self._map_digests: dict[str, DigestColumn] = {}
        for seen in scanned:
            self.append(seen)

    def append(self, seen: Scanned) -> None:
        item, place = seen.item, len(self)
        self.contents.append(seen.content)
        for text in item.captions:
            self.texts.append(text)
        self.text_ends.append(len(self.texts))
        self.held_out.append(item.held_out)
        if item.repeats != 1:
            self.repeats[place] = item.repeats
        self._pictures.append(item.picture, item.key)
        self._sizes.extend(seen.size)
        self._fields.append(json.dumps(item.fields) if item.fields else "")
        for name, picture in item.maps.items():
            self._maps.setdefault(name, PictureColumn()).put(place, picture, item.key)
        for name, digest in seen.maps.items():
            self._map_digests.setdefault(name, DigestColumn()).put(place, digest)
        if seen.maps:
            self._digests.put(place, seen.digest)
        self.keys.append(item.key)  # the last column: `len` counts it

    def __len__(self) -> int:
        return len(self.keys)

    def value(self, place: int) -> Scanned:
        return Scanned(self.item(place), self.digest(place), self.size(place), self.map_digests(place))

    def item(self, place: int) -> Item:
        key = self.keys[place]
        maps = {name: column.find(place, key) for name, column in self._maps.items()}
        return Item(
            key,
            self._pictures.find(place, key),
            self.captions(place),
            key,
            bool(self.held_out[place]),
            self.fields(place),
            repeats=self.repeats.get(place, 1),
            maps={name: picture for name, picture in maps.items() if picture is not None},
        )

    def fields(self, place: int) -> dict[str, str]:
        values = self._fields[place]
        return parse_json(values) if values else {}  # type: ignore[return-value]

    def captions(self, place: int) -> tuple[str, ...]:
        return tuple(self.texts[self.text_start(place) : self.text_ends[place]])

    def text_start(self, place: int) -> int:
        """Return where an item's captions start in `texts`."""
        return self.text_ends[place - 1] if place else 1

    def digest(self, place: int) -> str:
        return self._digests.find(place) or self.contents[place]

    def size(self, place: int) -> Size:
        return self._sizes[2 * place], self._sizes[2 * place + 1]

    def map_digests(self, place: int) -> dict[str, str]:
        found = {name: column.find(place) for name, column in self._map_digests.items()}
        return {name: digest for name, digest in found.items() if digest is not None}


class ScannedCaptions(Column[tuple[str, ...]]):
    """The captions of each scanned picture."""

    def __init__(self, scanned: ScannedPictures) -> None:
        self.scanned = scanned

    def __len__(self) -> int:
        return len(self.scanned)

    def value(self, place: int) -> tuple[str, ...]:
        return self.scanned.captions(place)


class PictureColumn:
    """Where pictures are read from: what many have in common, such as a folder, is stored once, and the rest as a text.

    Pictures of a stream that are in memory, and those of own classes, are kept as they are.
    """

    def __init__(self) -> None:
        self._common: list[tuple[type | None, object]] = []
        self._numbers: dict[tuple[type | None, object], int] = {}  # of what is in `_common`
        self._used = array("I")
        self._rest = TextColumn()

    def append(self, picture: EncodedPicture | None, key: str) -> None:
        """Add a picture, which may be stored under the key of its item."""
        kind, common, rest = _take_apart(picture, key)
        number = len(self._common) if kind is None else self._numbers.setdefault((kind, common), len(self._common))
        if number == len(self._common):
            self._common.append((kind, common))
        self._used.append(number)
        self._rest.append(rest)

    def put(self, place: int, picture: EncodedPicture, key: str) -> None:
        """Add the picture of a place; the places before it that have none are filled."""
        while len(self._used) < place:
            self.append(None, "")
        self.append(picture, key)

    def find(self, place: int, key: str) -> EncodedPicture | None:
        """Return the picture of a place, None if it has none."""
        if place >= len(self._used):
            return None
        kind, common = self._common[self._used[place]]
        rest = self._rest[place]
        if kind is PictureFile:
            return PictureFile(Path(f"{common}{rest or key}"))
        if kind is FileSlice:
            return FileSlice(common, *map(int, rest.split()))  # type: ignore[arg-type]
        if kind is TablePicture:
            return TablePicture(common, int(rest))  # type: ignore[arg-type]
        return common  # type: ignore[return-value]


def _take_apart(picture: EncodedPicture | None, key: str) -> tuple[type | None, object, str]:
    """Return a picture's class, what others have in common with it, and the rest; no class if it is kept as it is."""
    if type(picture) is PictureFile:
        path = str(picture.path)
        if path.endswith(f"/{key}"):
            return PictureFile, path.removesuffix(key), ""
        folder, slash, name = path.rpartition("/")
        return PictureFile, f"{folder}{slash}", name
    if type(picture) is FileSlice:
        return FileSlice, picture.path, f"{picture.offset} {picture.length}"
    if type(picture) is TablePicture:
        return TablePicture, picture.fetch, str(picture.row)
    return (type(None), None, "") if picture is None else (None, picture, "")
