"""The entries of a cache, one for each picture: `entries.jsonl`."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ldm_train.data.cache.manifest import to_canonical_json
from ldm_train.util.safe_json import Json, parse_json


@dataclass(frozen=True, slots=True)
class Entry:
    """One encoded picture: where its moments are stored, and the numbers of its captions.

    Args:
        key: its name in the source.
        picture: SHA-256 of its bytes.
        maps: SHA-256 of each map's bytes, by name.
        size: (height, width) of the upright original, pixels.
        bucket, row: where its moments are stored; copies of a picture share a row if their maps are the same.
        views: how each view was cut: [resized height, resized width, top, left, mirrored].
    """

    key: str
    picture: str
    size: list[int]
    bucket: str
    row: int
    views: list[list[int]]
    captions: list[int]
    held_out: bool
    fields: dict[str, str] = field(default_factory=dict)
    maps: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """The digest of all that a row is made of."""
        return name_content(self.picture, self.maps)

    def as_plain(self) -> dict[str, Json]:
        """Return the values of a line of entries.jsonl, without maps if there are none."""
        values: dict[str, Json] = asdict(self)
        if not self.maps:
            del values["maps"]
        return values


def name_content(picture: str, maps: Mapping[str, str]) -> str:
    """Return the digest of a picture together with its maps, from their digests; the picture's own without maps."""
    if not maps:
        return picture
    return hashlib.sha256(to_canonical_json([picture, dict(maps)]).encode()).hexdigest()


def read_entries(folder: Path) -> list[Entry]:
    """Return all entries of a cache.

    Raises:
        ValueError: a line is damaged.
    """
    return list(iterate_entries(folder))


def iterate_entries(folder: Path) -> Iterator[Entry]:
    """Yield each entry of a cache, with one line in memory at a time.

    Raises:
        ValueError: a line is damaged.
    """
    path = folder / "entries.jsonl"
    with path.open(encoding="utf-8") as lines:
        try:
            for line in lines:
                yield Entry(**parse_json(line))  # type: ignore
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} cannot be used ({error}); remove {folder} and encode it again") from error


def read_fields(folder: Path, numbers: Sequence[int]) -> list[dict[str, str]]:
    """Return the further fields of entries with these numbers; lines of other entries are not parsed."""
    wanted = set(numbers)
    with (folder / "entries.jsonl").open(encoding="utf-8") as lines:
        found: dict[int, Any] = {number: parse_json(line) for number, line in enumerate(lines) if number in wanted}
    return [found[number]["fields"] for number in numbers]


def iterate_field(folder: Path, name: str) -> Iterator[str | None]:
    """Yield one further field of each entry, None if an entry does not have it, with one line in memory at a time."""
    with (folder / "entries.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            entry: Any = parse_json(line)
            yield entry["fields"].get(name)
