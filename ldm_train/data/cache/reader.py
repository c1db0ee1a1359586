"""Read latent caches: memory-mapped, with random access by example; several caches can be joined."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ldm_train.data.cache.index import CacheIndex, join_indices
from ldm_train.data.cache.manifest import (
    Entry,
    Manifest,
    describe_differences,
    find_damaged_files,
    read_captions,
    read_entries,
    read_fields,
    read_manifest,
)
from ldm_train.data.cache.quality import Quality, choose_worst, read_quality
from ldm_train.data.cache.shards import Rows, load_rows, pooled_statistics
from ldm_train.types import CaptionBatch, Moments
from ldm_train.util.safe_json import Json

REPAIR_ADVICE = "encode it again, which repairs what is damaged and keeps the rest"


class StoredRows:
    """The rows of one kind, numbered through all their files."""

    def __init__(self, files: Sequence[Rows]) -> None:
        self.ends = torch.tensor([len(next(iter(rows.values()))) for rows in files]).cumsum(0)
        self.types = {key: rows.dtype for key, rows in files[0].items()}
        # NumPy copies bytes faster than PyTorch copies numbers of any type.
        self.files = [{key: rows.view(torch.uint8).numpy() for key, rows in file.items()} for file in files]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def gather(self, numbers: Tensor, views: Tensor | None = None) -> Rows:
        """Return rows (B, …) by number (B,), or one view (B,) of each."""
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


class EncodedExamples(Protocol):
    """Encoded examples by number, for batches of one bucket. `sets` has the number of examples of each data set."""

    index: CacheIndex
    sets: list[int]
    quality: Quality  # of several caches, the one that keeps least of its pictures

    def moments(self, examples: Tensor, views: Tensor) -> Moments:
        """Return the raw moments (B, C, H, W), as stored, of one view (B,) of each example (B,); all of one bucket."""

    def captions(self, examples: Tensor, chosen: Tensor, dropped: Tensor) -> CaptionBatch:
        """Return one caption of each example (B,): `chosen` (B,) in [0, 1) picks it; the empty one if `dropped` (B,)."""

    def first_caption(self, example: int) -> str:
        """Return the text of an example's first caption."""

    def captions_of(self, example: int) -> list[str]:
        """Return the texts of all captions of an example."""

    def name(self, example: int) -> str:
        """Return an example's name in its source."""

    def fields(self, examples: Tensor) -> list[dict[str, str]]:
        """Return the further metadata of examples (B,) in their source."""


class LatentCache:
    """A cache opened for reading.

    Raises:
        ValueError: the folder is not a cache, has an unknown format, or a file is missing or cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        missing = [name for name in self.manifest.digests() if not (self.folder / name).is_file()]
        if missing:
            raise ValueError(f"cache {self.folder} has no {', '.join(missing)}; {REPAIR_ADVICE}")
        self.index = CacheIndex(**load_rows(self.folder / "index.safetensors"))
        self.sets = [len(self.index)]
        self.quality = read_quality(self.folder)
        self.buckets = [self._rows(f"latents-{bucket}") for bucket in sorted(self.manifest.buckets)]
        self.caption_rows = self._rows("captions")
        self._check_counts()

    def verify(self, *, progress: Callable[[int], None] = lambda count: None) -> None:
        """Read every file and compare its checksum; `progress` is called with each file's bytes.

        Raises:
            ValueError: naming the files that changed.
        """
        wrong = find_damaged_files(self.folder, self.manifest, progress=progress)
        if wrong:
            raise ValueError(f"cache {self.folder}: {', '.join(wrong)} changed since encoding; {REPAIR_ADVICE}")
        if text := self.caption_texts[self.manifest.empty]:
            raise ValueError(
                f"cache {self.folder}: manifest.json says that the caption {text!r:.60} is the empty one; {REPAIR_ADVICE}"
            )

    def _check_counts(self) -> None:
        """Raise ValueError if the manifest, which has no checksum itself, contradicts the files."""
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
        wrong = [f"{name}: {said}, and its files have {found}" for name, (said, found) in counts.items() if said != found]
        wrong += _wrong_statistics(manifest)
        if not 0 <= manifest.empty < manifest.captions:
            wrong.append(f"empty: {manifest.empty}, and it has {manifest.captions} captions")
        if wrong:
            raise ValueError(
                f"cache {self.folder}: manifest.json does not fit its files ({'; '.join(wrong)}); {REPAIR_ADVICE}"
            )

    def _rows(self, prefix: str) -> StoredRows:
        return StoredRows(
            [load_rows(self.folder / s) for s in sorted(self.manifest.shards) if s.rpartition("-")[0] == prefix]
        )

    def moments(self, examples: Tensor, views: Tensor) -> Moments:
        bucket = self.buckets[int(self.index.bucket[examples[0]])]
        rows = bucket.gather(self.index.row[examples], views)
        return Moments(rows["mean"], rows.get("log_variance"))

    def captions(self, examples: Tensor, chosen: Tensor, dropped: Tensor) -> CaptionBatch:
        return self.numbered(self.index.caption_of(examples, chosen).masked_fill(dropped, self.manifest.empty))

    def numbered(self, numbers: Tensor) -> CaptionBatch:
        """Return captions by number, (B,)."""
        rows = self.caption_rows.gather(numbers)
        return CaptionBatch(rows["tokens"].long(), rows.get("embeddings"))

    @cached_property
    def entries(self) -> list[Entry]:
        """All entries, for messages and reports; training reads only the index."""
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
    """Several caches as one, with their examples concatenated; only the index is copied.

    Raises:
        ValueError: they were made by different autoencoders, text encoders or storage types.
    """

    def __init__(self, caches: Sequence[LatentCache]) -> None:
        self.caches = caches
        self.sets = [len(cache.index) for cache in caches]
        self.starts = torch.tensor([0, *self.sets[:-1]]).cumsum(0)
        first = caches[0].manifest
        for cache in caches[1:]:
            if different := describe_differences(_common(cache.manifest), _common(first)):
                lines = "\n  ".join(different)
                raise ValueError(
                    f"{cache.folder} cannot be joined with {caches[0].folder}:\n  {lines}\nencode both with equal settings"
                )
        names = sorted({bucket for cache in caches for bucket in cache.manifest.buckets})
        self.index = join_indices([(cache.index, sorted(cache.manifest.buckets)) for cache in caches], names)
        self.quality = choose_worst([cache.quality for cache in caches])

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
        """Return the cache that contains an example, and the example's number there."""
        number = int(torch.searchsorted(self.starts, torch.tensor(example), right=True)) - 1
        return self.caches[number], example - int(self.starts[number])

    def _shares(self, examples: Tensor) -> list[tuple[LatentCache, Tensor, Tensor]]:
        """Return each cache with some of these examples, its first example's number, and a mask (B,) of its examples."""
        owner = torch.searchsorted(self.starts, examples, right=True) - 1
        return [(self.caches[n], self.starts[n], owner == n) for n in owner.unique().tolist()]


def _wrong_statistics(manifest: Manifest) -> list[str]:
    """Return which of the latents' statistics are not those of the shards together."""
    latents = [shard for shard in manifest.shards.values() if shard.mean]
    if not latents:
        return []
    try:
        mean, std = pooled_statistics(latents)
    except (ValueError, TypeError, RuntimeError):
        return ["mean, std: those of the shards are not lists with a number for each channel"]
    found = {"mean": (manifest.mean, mean), "std": (manifest.std, std)}
    return [f"{name}: {said}, and its shards have {value}" for name, (said, value) in found.items() if said != value]


def _common(manifest: Manifest) -> dict[str, Json]:
    """Return what caches must have in common to be joined."""
    shared = {name: value for name, value in manifest.expected_of_a_run.items() if name != "image_size"}
    return shared | {"dtype": manifest.encoding["pictures"]["dtype"]}  # type: ignore[index, call-overload]


def _scattered(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return rows (B, …) from parts that each have the rows of their mask (B,)."""
    mask, rows = parts[0]
    merged = rows.new_empty(len(mask), *rows.shape[1:])
    for mask, rows in parts:
        merged[mask] = rows
    return merged


def open_caches(folders: str | Sequence[str]) -> list[LatentCache]:
    """Open the cache of a folder, or of each of several.

    Raises:
        ValueError: there is no folder, or one that cannot be opened as a cache.
    """
    if not folders:
        raise ValueError("cache=[] names no cache; set it to a folder or a list of folders")
    return [LatentCache(folder) for folder in ([folders] if isinstance(folders, str) else folders)]


def join_caches(caches: Sequence[LatentCache]) -> EncodedExamples:
    """Return several caches as one, or the only one."""
    return caches[0] if len(caches) == 1 else JoinedCaches(caches)
