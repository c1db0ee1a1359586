"""The text files of a latent cache: what made it, what it contains, and the checksum of every file.

manifest.json                what made the cache, counts, statistics, checksums
entries.jsonl                one line per picture: name, digest, bucket, row, numbers of captions, split, further fields
captions.jsonl               every distinct caption once; the line is its number
index.safetensors            the entries' numbers as columns, all that training reads of the entries
captions-NNN.safetensors     tokens (rows, L), and embeddings (rows, ...) if the text encoder is frozen
latents-HxW-NNN.safetensors  a bucket's raw moments (rows, V, C, H, W): mean, log_variance if there is a posterior, map.NAME
report.json                  which pictures were left out, and why

A row is named by what made it, rows are sorted by name, and the name's first bits choose the shard. So the files depend only
on the set of entries, and changing a few entries changes few shards.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ldm_train.util.files import digest_file
from ldm_train.util.safe_json import Json, parse_json, read_object
from ldm_train.util.text import as_word

CACHE_FORMAT = 3
VERSION_KEY = "version"  # of the code, among the settings that decide rows' names
MAPS_KEY = "maps"  # among them, what each map of a picture is, by its name; only if there are any
PIXELS_KEY = "pixels"  # among them, what the values of pictures are that are not 8-bit RGB
TF32_KEY = "tf32"  # among them, where a GPU rounded to TF32 what it multiplied


@dataclass(frozen=True)
class Provenance:
    """The settings that turn a picture or a caption into a stored row: all that change the row's values."""

    settings: Mapping[str, Json]

    def name(self, content: str) -> str:
        """Return a row's name, the hexadecimal SHA-256 of the settings and the picture's digest or the caption's text."""
        digest = self._settings_digest.copy()
        digest.update(content.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @cached_property
    def _settings_digest(self) -> "hashlib._Hash":
        return hashlib.sha256(f"{to_canonical_json(dict(self.settings))}\n".encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Shard:
    """One file of rows; files of latents also have the mean and deviation per channel of their raw means."""

    rows: int
    sha256: str
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """What made a cache and what it contains.

    Args:
        encoding: the settings that decide rows' names. For "pictures": identities of autoencoder and crop, background,
            storage type and version, and what its maps are; for "captions": identity of the text encoder and version.
        autoencoder, text_encoder: how to build them again: their configs, and the checksums of their weights' files.
        shift, scale: of the autoencoder; the cache stores raw latents.
        views: number of views of each picture.
        empty: the number of the empty caption.
        mean, std: of the raw latents' means, per channel.
        buckets: number of distinct pictures of each shape, by "HxW".
        shards: the files of rows, in order.
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
        """A hash of the whole content, which does not depend on where the encoders' weights are stored."""
        content = {name: value for name, value in asdict(self).items() if name not in ("autoencoder", "text_encoder")}
        return hashlib.sha256(to_canonical_json(content).encode()).hexdigest()

    @property
    def expected_of_a_run(self) -> dict[str, Json]:
        """What a run must have in common with this cache: identities of the encoders, scaling of the latents, image size."""
        pictures, captions = self.encoding["pictures"], self.encoding["captions"]
        assert isinstance(pictures, dict)
        assert isinstance(captions, dict)
        return {
            "image_size": self.image_size,
            "autoencoder": pictures["autoencoder"],
            "text_encoder": {name: value for name, value in captions.items() if name not in (VERSION_KEY, TF32_KEY)},
            "shift": self.shift,
            "scale": self.scale,
            MAPS_KEY: pictures.get(MAPS_KEY, {}),
            PIXELS_KEY: pictures.get(PIXELS_KEY),
        }

    def text(self) -> str:
        """Return the content of manifest.json."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of every file except the manifest."""
        return self.files | {name: shard.sha256 for name, shard in self.shards.items()}


def to_canonical_json(value: Json) -> str:
    """Return a JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def iterate_json_lines(values: Iterable[Json]) -> Iterator[str]:
    """Yield JSON lines in ASCII, in which no value contains a line break."""
    return (f"{json.dumps(value)}\n" for value in values)


class OtherFormatError(ValueError):
    """The cache was written in another format, by another version of this project."""


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a cache.

    Raises:
        ValueError: there is no manifest, or it is damaged.
        OtherFormatError: it has another format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        word = "cache=NEW_FOLDER" if folder.is_dir() and any(folder.iterdir()) else as_word("cache", folder)
        raise ValueError(f"{folder} is not a latent cache (it has no manifest.json); `ldm-train encode … {word}` makes one")
    try:
        values: Any = read_object(path)
        if values["format"] != CACHE_FORMAT:
            raise OtherFormatError(f"{path} has format {values['format']}; this version reads format {CACHE_FORMAT}")
        values["shards"] = {name: Shard(**shard) for name, shard in values["shards"].items()}
        manifest = Manifest(**values)
        _check_values(manifest)
        return manifest
    except OtherFormatError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be used ({error}); remove {folder} and encode it again") from error


def _check_values(manifest: Manifest) -> None:
    """Raise ValueError for values of types that `encode` does not write, and for files outside the cache."""
    for name, kind in _KINDS.items():
        if not isinstance(getattr(manifest, name), kind):
            raise ValueError(f"its {name} is {getattr(manifest, name)!r:.60}")
    for part, name in _NESTED:
        if not isinstance(getattr(manifest, part).get(name), dict):
            raise ValueError(f"its {part} has no {name}")
    for name in ("autoencoder", "dtype"):
        if name not in manifest.encoding["pictures"]:  # type: ignore[operator]
            raise ValueError(f"its encoding of pictures has no {name}")
    if outside := next((name for name in manifest.digests() if Path(name).name != name or name in ("", "..")), None):
        raise ValueError(f"it names the file {outside!r}, which is not in its folder")


_NESTED = (("encoding", "pictures"), ("encoding", "captions"), ("autoencoder", "config"), ("text_encoder", "config"))
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("encoding", "autoencoder", "text_encoder", "buckets", "shards", "files"), dict),
    **dict.fromkeys(("image_size", "channels", "factor", "views", "entries", "held_out", "captions", "empty"), int),
    **dict.fromkeys(("shift", "scale"), (int, float)),
    **dict.fromkeys(("mean", "std"), list),
}


def read_captions(folder: Path) -> list[str]:
    """Return all captions of a cache by number."""
    with (folder / "captions.jsonl").open(encoding="utf-8") as lines:
        return [str(parse_json(line)) for line in lines]


def find_damaged_files(
    folder: Path,
    manifest: Manifest,
    *,
    names: Collection[str] | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, str]:
    """Read all files of a cache, or those of these names, and return what is wrong, by name.

    Args:
        progress: called with each file's bytes.
    """

    def problem(name: str) -> str | None:
        path = folder / name
        if not path.is_file():
            return "is missing"
        changed = digest_file(path) != digests[name]
        progress(path.stat().st_size)
        return "changed since encoding" if changed else None

    digests = {name: digest for name, digest in manifest.digests().items() if names is None or name in names}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        problems = zip(digests, threads.map(problem, digests), strict=True)
        return {name: words for name, words in problems if words is not None}


def describe_differences(found: Mapping[str, Json], expected: Mapping[str, Json]) -> list[str]:
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


def check_cache_matches(
    manifest: Manifest, expected: Mapping[str, Json], *, cache: Path, mend: Sequence[str], fit: Sequence[str] = ()
) -> None:
    """Raise unless a cache is one that a run expects.

    Args:
        expected: nested settings, as in `Manifest.expected_of_a_run`.
        mend: the run's settings that would encode the cache that it expects.
        fit: what to change in the run's settings to train on the cache as it is.

    Raises:
        ValueError: listing every difference, and the command that encodes a matching cache.
    """
    if different := describe_differences(manifest.expected_of_a_run, expected):
        lines = "\n  ".join(different)
        raise ValueError(
            f"cache {cache} was made with other settings:\n  {lines}\n"
            f"change the settings of this run{': ' * bool(fit)}{', '.join(fit)}, or encode with them (source=… as before):\n"
            f"  ldm-train encode source.path=… {as_word('cache', cache)} {' '.join(mend)}"
        )
