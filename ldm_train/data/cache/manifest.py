"""What a latent cache says of itself, in plain text: what made it, what is in it, and the checksum of every file.

manifest.json                what made the cache, counts, statistics, checksums
entries.jsonl                one line per picture: name, digest, bucket, row, captions' numbers, split, further fields
captions.jsonl               every distinct caption once, in the order of their numbers
index.safetensors            the entries' numbers as columns, which is all that training reads of them
captions-NNN.safetensors     tokens (rows, L), and embeddings (rows, L, D) where the text encoder is frozen
latents-HxW-NNN.safetensors  a bucket's raw moments: mean and, where there is a posterior, log_variance, (rows, V, C, H, W)
report.json                  the pictures that were left out, and why

A row is named by what made it: rows are sorted by that name, and its first bits choose the shard. So the files depend on the
set of entries alone, and what changes a few entries leaves most shards as they are.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ldm_train.util.safe_json import Json, parse_json, read_object

FORMAT = 3
VERSION = "version"  # of the code, among what rows are named by


@dataclass(frozen=True)
class Provenance:
    """What turns something into a stored row; whatever changes the row's values must be in `settings`."""

    settings: Mapping[str, Json]

    def name(self, content: str) -> str:
        """The row's name, SHA-256 hexadecimal, for the picture's digest or the caption's text."""
        return hashlib.sha256(f"{canonical(dict(self.settings))}\n{content}".encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One encoded picture: where its moments lie and which captions it has (numbers into captions.jsonl).

    Args:
        key: its name in the source.
        picture: SHA-256 of its bytes.
        size: (height, width) of the upright original, pixels.
        bucket, row: where its moments are; copies of a picture share a row.
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


@dataclass(frozen=True)
class Shard:
    """One file of rows; the latents' have the mean and deviation of their raw means per channel."""

    rows: int
    sha256: str
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """What made a cache and what is in it.

    Args:
        encoding: what rows are named by: for "pictures" the identities of autoencoder and crop, background, storage type and
            version; for "captions" the identity of the text encoder and version.
        autoencoder, text_encoder: how to build them again: their configs, and the checksum of their files of weights.
        shift, scale: of the autoencoder; the cache itself holds raw latents.
        views: stored for each picture.
        empty: the number of the empty caption.
        mean, std: of the raw latents' means, per channel.
        buckets: pictures (distinct) of each shape of the pictures, by "HxW".
        shards: the files of rows, in their order.
        files: SHA-256 of each other file.
    """

    format: int
    image_size: int
    encoding: dict[str, Json]
    autoencoder: dict[str, Json]
    text_encoder: dict[str, Json]
    shift: float
    scale: float
    channels: int
    factor: int
    views: int
    entries: int
    held_out: int
    captions: int
    empty: int
    mean: list[float]
    std: list[float]
    buckets: dict[str, int]
    shards: dict[str, Shard]
    files: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """One name for the whole content, wherever the parts that made it lie."""
        content = {name: value for name, value in asdict(self).items() if name not in ("autoencoder", "text_encoder")}
        return hashlib.sha256(canonical(content).encode()).hexdigest()

    @property
    def expected_of_a_run(self) -> dict[str, Json]:
        """What a run must have in common with this cache: the identities of its encoders, the latents' scale, the size."""
        pictures, captions = self.encoding["pictures"], self.encoding["captions"]
        assert isinstance(pictures, dict)
        assert isinstance(captions, dict)
        return {
            "image_size": self.image_size,
            "autoencoder": pictures["autoencoder"],
            "text_encoder": {name: value for name, value in captions.items() if name != VERSION},
            "shift": self.shift,
            "scale": self.scale,
        }

    def text(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file but the manifest."""
        return self.files | {name: shard.sha256 for name, shard in self.shards.items()}


def canonical(value: Json) -> str:
    """The one text of a JSON value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def lines_of(values: Iterable[Json]) -> str:
    """JSON lines, in ASCII: whatever is in a name or a caption, a line is a line."""
    return "".join(f"{json.dumps(value)}\n" for value in values)


class OtherFormatError(ValueError):
    """A cache of another version of this project."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a cache.

    Raises:
        ValueError: there is none, or it is damaged; an OtherFormatError, of another format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        taken = folder.is_dir() and any(folder.iterdir())
        into = "NEW_FOLDER` makes one in a folder of its own" if taken else f"{folder}` makes one"
        raise ValueError(f"{folder} is not a latent cache (it has no manifest.json); `ldm-train encode … cache={into}")
    try:
        values: Any = read_object(path)
        if values["format"] != FORMAT:
            raise OtherFormatError(f"{path} has format {values['format']}, and this version reads {FORMAT}")
        values["shards"] = {name: Shard(**shard) for name, shard in values["shards"].items()}
        manifest = Manifest(**values)
        _check_values(manifest)
        return manifest
    except OtherFormatError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be used ({error}); remove {folder} and encode it again") from error


def _check_values(manifest: Manifest) -> None:
    """Raise ValueError for values of other types than `encode` writes, and for files outside the cache."""
    for name, kind in _KINDS.items():
        if not isinstance(getattr(manifest, name), kind):
            raise ValueError(f"its {name} is {getattr(manifest, name)!r:.60}")
    for part, name in (
        *(("encoding", "pictures"), ("encoding", "captions")),
        *(("autoencoder", "config"), ("text_encoder", "config")),
    ):
        if not isinstance(getattr(manifest, part).get(name), dict):
            raise ValueError(f"its {part} holds no {name}")
    for name in ("autoencoder", "dtype"):
        if name not in manifest.encoding["pictures"]:  # type: ignore[operator]
            raise ValueError(f"its encoding of pictures has no {name}")
    if outside := next((name for name in manifest.digests() if Path(name).name != name or name in ("", "..")), None):
        raise ValueError(f"it names the file {outside!r}, which is not in its folder")


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("encoding", "autoencoder", "text_encoder", "buckets", "shards", "files"), dict),
    **dict.fromkeys(("image_size", "channels", "factor", "views", "entries", "held_out", "captions", "empty"), int),
    **dict.fromkeys(("shift", "scale"), (int, float)),
    **dict.fromkeys(("mean", "std"), list),
}


def read_entries(folder: Path) -> list[Entry]:
    """All entries of a cache.

    Raises:
        ValueError: a line is damaged.
    """
    path = folder / "entries.jsonl"
    with path.open(encoding="utf-8") as lines:
        try:
            return [Entry(**parse_json(line)) for line in lines]  # type: ignore
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} cannot be used ({error}); remove {folder} and encode it again") from error


def read_fields(folder: Path, numbers: Sequence[int]) -> list[dict[str, str]]:
    """The further fields of some entries; the others' lines are passed over."""
    wanted = set(numbers)
    with (folder / "entries.jsonl").open(encoding="utf-8") as lines:
        found: dict[int, Any] = {number: parse_json(line) for number, line in enumerate(lines) if number in wanted}
    return [found[number]["fields"] for number in numbers]


def read_captions(folder: Path) -> list[str]:
    """All captions of a cache, by number."""
    with (folder / "captions.jsonl").open(encoding="utf-8") as lines:
        return [str(parse_json(line)) for line in lines]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged_files(
    folder: Path, manifest: Manifest, *, progress: Callable[[int], None] = lambda count: None
) -> dict[str, str]:
    """What is wrong with a cache's files, by name, after reading them all; `progress` is told the bytes of each."""

    def problem(name: str) -> str | None:
        path = folder / name
        if not path.is_file():
            return "is missing"
        changed = file_digest(path) != digests[name]
        progress(path.stat().st_size)
        return "changed since encoding" if changed else None

    digests = manifest.digests()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        problems = zip(digests, threads.map(problem, digests), strict=True)
        return {name: told for name, told in problems if told is not None}


def differences(found: Mapping[str, Json], expected: Mapping[str, Json]) -> list[str]:
    """Return the settings in which a cache differs from what is expected of it, each with both values."""
    return [
        f"{name}: the cache has {has}, this run expects {value}" for name, has, value in find_differences(found, expected)
    ]


def find_differences(
    found: Mapping[str, Json], expected: Mapping[str, Json], prefix: str = ""
) -> Iterator[tuple[str, Json, Json]]:
    """Yield the dotted name of each nested setting that differs from what is expected, and both values.

    Without a prefix, further names in `found` count below the first level only.
    """
    for name in dict.fromkeys([*expected, *(found if prefix else ())]):
        has, value = found.get(name), expected.get(name)
        if isinstance(value, dict) and isinstance(has, dict):
            yield from find_differences(has, value, f"{prefix}{name}.")
        elif value != has:
            yield f"{prefix}{name}", has, value


def refuse_other(manifest: Manifest, expected: Mapping[str, Json], *, cache: Path, mend: Sequence[str]) -> None:
    """Compare what a run expects with what made the cache.

    Args:
        expected: names ("image_size", "autoencoder") to values or to further names, as in `Manifest.expected_of_a_run`.
        mend: the settings of the run, with which encoding again would mend it.

    Raises:
        ValueError: listing every difference, and the command that mends them.
    """
    told = differences(manifest.expected_of_a_run, expected)
    if told:
        listed = "\n  ".join(told)
        raise ValueError(
            f"cache {cache} was made by something else:\n  {listed}\n"
            f"change the settings of this run, or encode with them (source=… as before):\n"
            f"  ldm-train encode source.path=… cache={cache} {' '.join(mend)}"
        )
