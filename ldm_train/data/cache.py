"""The latent cache on disk: what it holds, what made it, and how to read it.

manifest.json            what made the cache, counts, statistics, checksums of the other files
entries.jsonl            one line per picture: its key, bucket, row, captions' numbers, split, further fields
captions.jsonl           every distinct caption once; number 0 is the empty one
captions.safetensors     their tokens (N, L), and embeddings (N, L, D) where the text encoder is frozen
latents-HxW.safetensors  a bucket's raw moments: mean and, where there is a posterior, log_variance, (rows, C, H, W)
report.json              the pictures that were left out, and why
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ldm_train.types import Captions, Moments

FORMAT = 1
Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Entry:
    """One encoded picture: where its moments lie and which captions it has (numbers into captions.jsonl)."""

    key: str
    picture: str
    bucket: str
    row: int
    captions: list[int]
    held_out: bool
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What made a cache and what is in it.

    Args:
        image_size: side of the pictures, pixels.
        autoencoder, text_encoder: their configs, with the fingerprint of what they compute.
        shift, scale: of the autoencoder; the cache itself holds raw latents.
        mean, std: of the raw latents' means, per channel.
        files: SHA-256 of each other file.
    """

    format: int
    image_size: int
    autoencoder: dict[str, Json]
    text_encoder: dict[str, Json]
    shift: float
    scale: float
    channels: int
    entries: int
    held_out: int
    captions: int
    mean: list[float]
    std: list[float]
    files: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """One name for the whole content."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


class LatentCache:
    """A cache opened for reading: memory-mapped, random access by entry.

    Args:
        verify: compare every file with its checksum first, which reads them all.

    Raises:
        ValueError: no cache there, an unknown format, or a file that is missing, unreadable or, if verified, changed.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        missing = [name for name in self.manifest.files if not (self.folder / name).is_file()]
        if missing:
            raise ValueError(f"cache {self.folder} lacks {', '.join(missing)}; encode it again")
        if verify:
            self._verify()
        self.entries = [Entry(**json.loads(line)) for line in self._text("entries.jsonl")]
        self.caption_texts: list[str] = [json.loads(line) for line in self._text("captions.jsonl")]
        captions = self._tensors("captions.safetensors")
        self.tokens, self.embeddings = captions["tokens"].long(), captions.get("embeddings")
        self.buckets = {n: self._tensors(n) for n in sorted(self.manifest.files) if n.startswith("latents-")}

    def moments(self, entries: list[Entry]) -> Moments:
        """Raw moments of entries of one bucket, (B, C, H, W) float32."""
        tensors = self.buckets[f"latents-{entries[0].bucket}.safetensors"]
        rows = torch.tensor([entry.row for entry in entries])
        log_variance = tensors.get("log_variance")
        return Moments(tensors["mean"][rows].float(), None if log_variance is None else log_variance[rows].float())

    def captions(self, numbers: Tensor) -> Captions:
        """Captions by number, (B,)."""
        return Captions(self.tokens[numbers], None if self.embeddings is None else self.embeddings[numbers].float())

    def _verify(self) -> None:
        changed = [name for name, digest in self.manifest.files.items() if file_digest(self.folder / name) != digest]
        if changed:
            raise ValueError(f"cache {self.folder}: {', '.join(changed)} changed since encoding; encode it again")

    def _text(self, name: str) -> list[str]:
        return (self.folder / name).read_text(encoding="utf-8").splitlines()

    def _tensors(self, name: str) -> dict[str, Tensor]:
        try:
            return load_file(self.folder / name)
        except Exception as error:  # safetensors' own error class says what is wrong with the file
            raise ValueError(f"cache {self.folder}: {name} cannot be read ({error}); encode it again") from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a cache.

    Raises:
        ValueError: there is none, or one of another format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is not a latent cache (it has no manifest.json); `ldm-train encode … cache={folder}` makes one"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"it has format {values['format']}, and this version reads {FORMAT}")
        return Manifest(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be used ({error}); encode it again") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_other(manifest: Manifest, expected: Mapping[str, Json], *, cache: Path) -> None:
    """Compare what a run expects with what made the cache; None expects nothing.

    Args:
        expected: dotted names ("image_size", "autoencoder.fingerprint") to values.

    Raises:
        ValueError: listing every difference.
    """
    found = asdict(manifest)
    differences = []
    for name, value in expected.items():
        section, _, key = name.partition(".")
        has = found[section].get(key) if key else found[section]
        if value is not None and value != has:
            differences.append(f"{name}: the cache has {has}, this run expects {value}")
    if differences:
        lines = "\n  ".join(differences)
        raise ValueError(
            f"cache {cache} was made by something else:\n  {lines}\nencode into another cache, or change the settings"
        )
