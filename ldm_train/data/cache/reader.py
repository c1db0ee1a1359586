"""Latent caches opened for reading: memory-mapped, random access by example, several as one."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ldm_train.data.cache.index import Index, joined
from ldm_train.data.cache.manifest import (
    Entry,
    Manifest,
    damaged_files,
    differences,
    read_captions,
    read_entries,
    read_fields,
    read_manifest,
)
from ldm_train.data.cache.shards import Rows, load
from ldm_train.types import CaptionBatch, Moments
from ldm_train.util.safe_json import Json

MEND = "encode it again, which mends what is broken and keeps the rest"


class Rowset:
    """The rows of one kind, in files one after the other."""

    def __init__(self, files: Sequence[Rows]) -> None:
        self.ends = torch.tensor([len(next(iter(rows.values()))) for rows in files]).cumsum(0)
        self.types = {key: rows.dtype for key, rows in files[0].items()}
        # Bytes, which NumPy copies faster than PyTorch numbers, whatever their type.
        self.files = [{key: rows.view(torch.uint8).numpy() for key, rows in file.items()} for file in files]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def gather(self, numbers: Tensor, views: Tensor | None = None) -> Rows:
        """Rows (B, …) by number (B,); of rows with views, one view each (B,)."""
        files = torch.searchsorted(self.ends, numbers, right=True).tolist()
        starts = [0, *self.ends.tolist()]
        within = [number - starts[file] for file, number in zip(files, numbers.tolist(), strict=True)]
        places = list(zip(within, strict=True) if views is None else zip(within, views.tolist(), strict=True))
        found = {}
        for key, dtype in self.types.items():
            rows = [self.files[file][key][place] for file, place in zip(files, places, strict=True)]
            gathered = np.empty((len(rows), *rows[0].shape), np.uint8)
            for row, bytes_of_row in enumerate(rows):
                gathered[row] = bytes_of_row
            found[key] = torch.from_numpy(gathered).view(dtype)
        return found


class Latents(Protocol):
    """What batches are made of: examples by number, one bucket at a time; `sets` are the data sets' numbers of examples."""

    index: Index
    sets: list[int]

    def moments(self, examples: Tensor, views: Tensor) -> Moments:
        """Raw moments (B, C, H, W), as stored, of examples (B,) of one bucket, each in one view (B,)."""

    def captions(self, examples: Tensor, chosen: Tensor, dropped: Tensor) -> CaptionBatch:
        """One caption of each example (B,), chosen (B,) in [0, 1) among its captions; the empty one where dropped (B,)."""

    def first_caption(self, example: int) -> str:
        """In words."""

    def captions_of(self, example: int) -> list[str]:
        """All, in words."""

    def name(self, example: int) -> str:
        """What its source calls it."""

    def fields(self, examples: Tensor) -> list[dict[str, str]]:
        """What the source says of examples (B,) beside their captions."""


class LatentCache:
    """A cache opened for reading.

    Raises:
        ValueError: no cache there, an unknown format, or a file that is missing or unreadable.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        missing = [name for name in self.manifest.digests() if not (self.folder / name).is_file()]
        if missing:
            raise ValueError(f"cache {self.folder} lacks {', '.join(missing)}; {MEND}")
        self.index = Index(**load(self.folder / "index.safetensors"))
        self.sets = [len(self.index)]
        self.buckets = [self._rows(f"latents-{bucket}") for bucket in sorted(self.manifest.buckets)]
        self.caption_rows = self._rows("captions")
        self._check_counts()

    def verify(self, *, progress: Callable[[int], None] = lambda count: None) -> None:
        """Compare every file with its checksum, which reads them all; `progress` is told the bytes of each.

        Raises:
            ValueError: naming what changed.
        """
        wrong = damaged_files(self.folder, self.manifest, progress=progress)
        if wrong:
            raise ValueError(f"cache {self.folder}: {', '.join(wrong)} changed since encoding; {MEND}")
        if text := self.caption_texts[self.manifest.empty]:
            raise ValueError(f"cache {self.folder}: manifest.json has the caption {text!r:.60} as the empty one; {MEND}")

    def _check_counts(self) -> None:
        """Raise ValueError if the manifest says otherwise than the files: it has no checksum of its own."""
        index, manifest = self.index, self.manifest
        counts = {
            "entries": (manifest.entries, len(index)),
            "held_out": (manifest.held_out, int(index.held_out.sum())),
            "captions": (manifest.captions, len(self.caption_rows)),
            **{
                f"buckets.{name}": (manifest.buckets[name], len(rows))
                for name, rows in zip(sorted(manifest.buckets), self.buckets, strict=True)
            },
        }
        wrong = [f"{name}: {told}, and its files have {found}" for name, (told, found) in counts.items() if told != found]
        if not 0 <= manifest.empty < manifest.captions:
            wrong.append(f"empty: {manifest.empty}, and there are {manifest.captions} captions")
        if wrong:
            raise ValueError(f"cache {self.folder}: manifest.json does not fit its files ({'; '.join(wrong)}); {MEND}")

    def _rows(self, prefix: str) -> Rowset:
        return Rowset([load(self.folder / s) for s in sorted(self.manifest.shards) if s.rpartition("-")[0] == prefix])

    def moments(self, examples: Tensor, views: Tensor) -> Moments:
        bucket = self.buckets[int(self.index.bucket[examples[0]])]
        rows = bucket.gather(self.index.row[examples], views)
        return Moments(rows["mean"], rows.get("log_variance"))

    def captions(self, examples: Tensor, chosen: Tensor, dropped: Tensor) -> CaptionBatch:
        return self.numbered(self.index.caption_of(examples, chosen).masked_fill(dropped, self.manifest.empty))

    def numbered(self, numbers: Tensor) -> CaptionBatch:
        """Captions by number, (B,)."""
        rows = self.caption_rows.gather(numbers)
        return CaptionBatch(rows["tokens"].long(), rows.get("embeddings"))

    @cached_property
    def entries(self) -> list[Entry]:
        """What people want to know of each example; training reads the index alone."""
        return read_entries(self.folder)

    @cached_property
    def caption_texts(self) -> list[str]:
        return read_captions(self.folder)

    def first_caption(self, example: int) -> str:
        first = self.index.caption_of(torch.tensor([example]), torch.zeros(1))
        return self.caption_texts[int(first)]

    def captions_of(self, example: int) -> list[str]:
        return [self.caption_texts[number] for number in self.index.captions_of(example).tolist()]

    def name(self, example: int) -> str:
        return self.entries[example].key

    def fields(self, examples: Tensor) -> list[dict[str, str]]:
        return read_fields(self.folder, examples.tolist())


class JoinedCaches:
    """Several caches as one, their examples one after the other; none is copied but for the numbers of its index.

    Raises:
        ValueError: they were not made by the same autoencoder, text encoder and storage type.
    """

    def __init__(self, caches: Sequence[LatentCache]) -> None:
        self.caches = caches
        self.sets = [len(cache.index) for cache in caches]
        self.starts = torch.tensor([0, *self.sets[:-1]]).cumsum(0)
        first = caches[0].manifest
        for cache in caches[1:]:
            told = differences(_common(cache.manifest), _common(first))
            if told:
                listed = "\n  ".join(told)
                raise ValueError(f"{cache.folder} does not go with {caches[0].folder}:\n  {listed}\nencode both alike")
        names = sorted({bucket for cache in caches for bucket in cache.manifest.buckets})
        self.index = joined([(cache.index, sorted(cache.manifest.buckets)) for cache in caches], names)

    def moments(self, examples: Tensor, views: Tensor) -> Moments:
        parts = [(mask, cache.moments(examples[mask] - start, views[mask])) for cache, start, mask in self._shares(examples)]
        mean = _scattered([(mask, part.mean) for mask, part in parts])
        variances = [(mask, part.log_variance) for mask, part in parts if part.log_variance is not None]
        return Moments(mean, _scattered(variances) if variances else None)

    def captions(self, examples: Tensor, chosen: Tensor, dropped: Tensor) -> CaptionBatch:
        parts = [
            (mask, cache.captions(examples[mask] - start, chosen[mask], dropped[mask]))
            for cache, start, mask in self._shares(examples)
        ]
        embeddings = [(mask, part.embeddings) for mask, part in parts if part.embeddings is not None]
        tokens = _scattered([(mask, part.tokens) for mask, part in parts])
        return CaptionBatch(tokens, _scattered(embeddings) if embeddings else None)

    def first_caption(self, example: int) -> str:
        cache, own = self._own(example)
        return cache.first_caption(own)

    def captions_of(self, example: int) -> list[str]:
        cache, own = self._own(example)
        return cache.captions_of(own)

    def name(self, example: int) -> str:
        cache, own = self._own(example)
        return f"{cache.folder}: {cache.name(own)}"

    def fields(self, examples: Tensor) -> list[dict[str, str]]:
        found: dict[int, dict[str, str]] = {}
        for cache, start, mask in self._shares(examples):
            found |= zip(mask.nonzero()[:, 0].tolist(), cache.fields(examples[mask] - start), strict=True)
        return [found[place] for place in range(len(examples))]

    def _own(self, example: int) -> tuple[LatentCache, int]:
        """The cache that has an example, and its number there."""
        number = int(torch.searchsorted(self.starts, torch.tensor(example), right=True)) - 1
        return self.caches[number], example - int(self.starts[number])

    def _shares(self, examples: Tensor) -> list[tuple[LatentCache, Tensor, Tensor]]:
        """The caches that have some of these examples, where theirs start, and a mask (B,) of which."""
        owner = torch.searchsorted(self.starts, examples, right=True) - 1
        return [(self.caches[n], self.starts[n], owner == n) for n in owner.unique().tolist()]


def _common(manifest: Manifest) -> dict[str, Json]:
    """What caches must share to be trained on together."""
    shared = {name: value for name, value in manifest.expected_of_a_run.items() if name != "image_size"}
    return shared | {"dtype": manifest.encoding["pictures"]["dtype"]}  # type: ignore[index, call-overload]


def _scattered(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Rows (B, …) of which each part has those of its mask (B,)."""
    mask, rows = parts[0]
    whole = rows.new_empty(len(mask), *rows.shape[1:])
    for mask, rows in parts:
        whole[mask] = rows
    return whole


def open_caches(folders: str | Sequence[str]) -> list[LatentCache]:
    """The cache of one folder, or of each.

    Raises:
        ValueError: there is none, or one that cannot be opened.
    """
    if not folders:
        raise ValueError("cache=[] names no cache; give a folder, or a list of them")
    return [LatentCache(folder) for folder in ([folders] if isinstance(folders, str) else folders)]


def together(caches: Sequence[LatentCache]) -> Latents:
    """Several caches as one, or the only one."""
    return caches[0] if len(caches) == 1 else JoinedCaches(caches)
