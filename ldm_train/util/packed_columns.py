"""Columns of texts and digests in one block of bytes each: a Python object for each of a million values takes far more."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

DIGEST = 32  # bytes of a SHA-256
Value = TypeVar("Value", covariant=True)


class Column(Sequence[Value], Generic[Value]):
    """The base of columns: a subclass returns the value of one place, and slices are lists."""

    def value(self, place: int) -> Value:
        """Return the value at a place from 0."""
        raise NotImplementedError

    @overload
    def __getitem__(self, place: int) -> Value: ...
    @overload
    def __getitem__(self, place: slice) -> list[Value]: ...
    def __getitem__(self, place: int | slice) -> Value | list[Value]:
        if isinstance(place, slice):
            return [self.value(one) for one in range(*place.indices(len(self)))]
        return self.value(range(len(self))[place])

    def __iter__(self) -> Iterator[Value]:
        return map(self.value, range(len(self)))


class TextColumn(Column[str]):
    """Texts, each in UTF-8 with 8 bytes more for where it ends; lone surrogates, as of undecodable file names, are kept."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._content = bytearray()
        self._ends = array("Q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        self._content += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._content))

    def __len__(self) -> int:
        return len(self._ends)

    def value(self, place: int) -> str:
        start = self._ends[place - 1] if place else 0
        return self._content[start : self._ends[place]].decode("utf-8", "surrogatepass")


class DigestColumn(Column[str]):
    """SHA-256 digests as hexadecimal texts, in 32 bytes each."""

    def __init__(self, content: bytes | bytearray = b"") -> None:
        self._content = bytearray(content)

    @classmethod
    def of(cls, digests: Iterable[str]) -> "DigestColumn":
        column = cls()
        for digest in digests:
            column.append(digest)
        return column

    def append(self, digest: str) -> None:
        self._content += bytes.fromhex(digest)

    def put(self, place: int, digest: str) -> None:
        """Add the digest of a place; the places before it that have none are filled."""
        self._content += bytes(DIGEST * place - len(self._content))
        self.append(digest)

    def find(self, place: int) -> str | None:
        """Return the digest of a place, None if it has none."""
        content = self._content[DIGEST * place : DIGEST * (place + 1)]
        return content.hex() if any(content) else None

    def __len__(self) -> int:
        return len(self._content) // DIGEST

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DigestColumn) and self._content == other._content

    __hash__ = None  # type: ignore[assignment]

    def value(self, place: int) -> str:
        return self._content[DIGEST * place : DIGEST * (place + 1)].hex()

    def part(self, start: int, end: int) -> "DigestColumn":
        """Return a copy of the digests from one place to another."""
        return DigestColumn(self._content[DIGEST * start : DIGEST * end])

    def array(self) -> NDArray[np.bytes_]:
        """Return the digests as bytes that numpy sorts and compares, (N,). No digest can be appended while it is in use."""
        return np.frombuffer(self._content, f"S{DIGEST}")

    def first_bits(self) -> NDArray[np.uint64]:
        """Return the first 32 bits of each digest, (N,)."""
        return np.frombuffer(self._content, ">u4")[:: DIGEST // 4].astype(np.uint64)


class Selection(Column[Value]):
    """Values of another column, or of another sequence, in another order.

    Args:
        places: where each of them is in the other.
    """

    def __init__(self, values: Sequence[Value], places: NDArray[np.int64]) -> None:
        self.values = values
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def value(self, place: int) -> Value:
        return self.values[int(self.places[place])]


def sort_places(values: Sequence[str]) -> NDArray[np.int64]:
    """Return the places of texts in sorted order; those that are sorted, as most are, are not all in memory at once."""
    if is_sorted(values):
        return np.arange(len(values))
    return np.array(sorted(range(len(values)), key=values.__getitem__), dtype=np.int64)


def is_sorted(values: Iterable[str]) -> bool:
    """Return whether no text is before the one that precedes it."""
    rest = iter(values)
    last = next(rest, "")
    for value in rest:
        if value < last:
            return False
        last = value
    return True


def select_distinct(texts: Sequence[str]) -> Selection[str]:
    """Return each text once, in any order, and without an object for each: they are compared by hashes of 64 bits."""
    hashes = np.fromiter(map(hash, texts), np.int64, len(texts))
    return Selection(texts, np.unique(hashes, return_index=True)[1])
