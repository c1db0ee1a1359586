"""Where rows are stored, by name, as sorted columns."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldm_train.util.packed_columns import DigestColumn


@dataclass(frozen=True, slots=True)
class RowLocation:
    """Where a row is stored: a file of rows, and the row's number in it."""

    path: Path
    number: int


class RowPlaces(Mapping[str, RowLocation]):
    """Where each row is stored, by its name. Of rows with one name, the one that was added last counts."""

    def __init__(self) -> None:
        self._names = DigestColumn()
        self._files: list[Path] = []
        self._file_ends = array("Q")

    def add(self, path: Path, names: Iterable[str]) -> None:
        """Add all rows of a file, in their order."""
        for name in names:
            self._names.append(name)
        self._files.append(path)
        self._file_ends.append(len(self._names))
        self.__dict__.pop("_order", None)

    def __getitem__(self, name: str) -> RowLocation:
        if not self._files:
            raise KeyError(name)
        found = int(self._names.array().searchsorted(bytes.fromhex(name), "right", self._order)) - 1
        place = int(self._order[found]) if found >= 0 else None
        if place is None or self._names[place] != name:
            raise KeyError(name)
        file = bisect_right(self._file_ends, place)
        return RowLocation(self._files[file], place - (self._file_ends[file - 1] if file else 0))

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in groupby(self._names[int(place)] for place in self._order))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """The places of all names, sorted by name; of equal names, the last one is after the others."""
        return self._names.array().argsort(kind="stable")
