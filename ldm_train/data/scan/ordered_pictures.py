"""Scanned pictures in the order of their keys, and items by key."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ldm_train.data.scan.scanned_pictures import Scanned, ScannedPictures
from ldm_train.data.sources.items import Item
from ldm_train.util.packed_columns import Column


class OrderedPictures(Column[Scanned]):
    """Scanned pictures sorted by key; one that an epoch has several times has further keys: "a.png#2", "a.png#3".

    Args:
        places: of the pictures among the scanned ones, sorted by key.

    Attributes:
        places: the same, with each picture as often as an epoch has it.
    """

    def __init__(self, scanned: ScannedPictures, places: NDArray[np.int64]) -> None:
        self.scanned = scanned
        self.places = places
        self._copies = array("Q")  # the number of each among those of its picture, if there are several of any
        if scanned.repeats:
            repeated = sorted(
                (f"{scanned.keys[place]}#{number}" if number > 1 else scanned.keys[place], place, number)
                for place in places.tolist()
                for number in range(1, scanned.repeats.get(place, 1) + 1)
            )
            self.places = np.array([place for _, place, _ in repeated], np.int64)
            self._copies.extend(number for _, _, number in repeated)

    def __len__(self) -> int:
        return len(self.places)

    def key(self, number: int) -> str:
        key = self.scanned.keys[int(self.places[number])]
        return f"{key}#{self._copies[number]}" if self._copies and self._copies[number] > 1 else key

    def item(self, number: int) -> Item:
        item = self.scanned.item(int(self.places[number]))
        return replace(item, key=self.key(number)) if self._copies else item

    def value(self, place: int) -> Scanned:
        seen = self.scanned[int(self.places[place])]
        return replace(seen, item=replace(seen.item, key=self.key(place))) if self._copies else seen

    def find(self, key: str) -> int | None:
        """Return where the picture with this key is, None if there is none."""
        place = bisect_left(range(len(self)), key, key=self.key)
        return place if place < len(self) and self.key(place) == key else None


class ItemsByKey(Mapping[str, Item]):
    """The items of pictures by their keys."""

    def __init__(self, pictures: OrderedPictures) -> None:
        self.pictures = pictures

    def __getitem__(self, key: str) -> Item:
        place = self.pictures.find(key)
        if place is None:
            raise KeyError(key)
        return self.pictures.item(place)

    def __iter__(self) -> Iterator[str]:
        return map(self.pictures.key, range(len(self)))

    def __len__(self) -> int:
        return len(self.pictures)
