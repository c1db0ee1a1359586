"""Read latent caches: memory-mapped, with random access by example; several caches can be joined."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ldm_train.data.cache.entries import Entry, iterate_field, read_entries, read_fields
from ldm_train.data.cache.index import CacheIndex
from ldm_train.data.cache.manifest import (
    Manifest,
    find_damaged_files,
    read_captions,
    read_manifest,
)
from ldm_train.data.cache.plan import parse_bucket
from ldm_train.data.cache.quality import Quality, read_quality
from ldm_train.data.cache.shards import Rows, load_rows, pooled_statistics
from ldm_train.data.pictures.maps import choose_masks, key_of
from ldm_train.types import CaptionBatch, Moments

REPAIR_ADVICE = "encode it again, which repairs what is damaged and keeps the rest"
MOMENTS = ("mean", "log_variance")  # keys of a row's tensors


class StoredRows:
    """The rows of one kind, numbered through all their files."""

    def __init__(self, files: Sequence[Rows]) -> None:
        self.ends = torch.tensor([len(next(iter(rows.values()))) for rows in files]).cumsum(0)
        self.types = {key: rows.dtype for key, rows in files[0].items()}
        # NumPy copies bytes faster than PyTorch copies numbers of any type.
        self.files = [{key: rows.view(torch.uint8).numpy() for key, rows in file.items()} for file in files]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def gather(self, numbers: Tensor, views: Tensor | None = None, keys: Collection[str] | None = None) -> Rows:
        """Return rows (B, …) by number (B,), or one view (B,) of each; of all tensors, or only of those with these keys."""
        files = torch.searchsorted(self.ends, numbers, right=True).tolist()
        starts = [0, *self.ends.tolist()]
        within = [number - starts[file] for file, number in zip(files, numbers.tolist(), strict=True)]
        places = list(zip(within, strict=True) if views is None else zip(within, views.tolist(), strict=True))
        found = {}
        for key, dtype in self.types.items():
            if keys is not None and key not in keys:
                continue
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

    @property
    def shapes(self) -> Tensor:
        """(height, width) of each example's views, pixels, (N, 2)."""

    def moments(self, examples: Tensor, views: Tensor) -> Moments:
        """Return the raw moments (B, C, H, W), as stored, of one view (B,) of each example (B,); all of one bucket."""

    def maps(self, name: str, examples: Tensor, views: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return a map (B, C, h, w), as stored, of one view (B,) of each example (B,); all of one bucket.

        Args:
            masks: of random masks, the number of the one of each example (B,) that is returned; None for all, along C.
        """

    def captions(self, examples: Tensor, chosen: Tensor, dropped: Tensor) -> CaptionBatch:
        """Return one caption of each example (B,): `chosen` (B,) in [0, 1) picks it; the empty one if `dropped` (B,)."""

    def pick_texts(self, examples: Tensor, chosen: Tensor) -> list[str]:
        """Return the text of one caption of each example (B,), which `chosen` (B,) in [0, 1) picks."""

    def first_caption(self, example: int) -> str:
        """Return the text of an example's first caption."""

    def captions_of(self, example: int) -> list[str]:
        """Return the texts of all captions of an example."""

    def name(self, example: int) -> str:
        """Return an example's name in its source."""

    def fields(self, examples: Tensor) -> list[dict[str, str]]:
        """Return the further metadata of examples (B,) in their source."""

    def column(self, name: str) -> Iterator[str | None]:
        """Yield one field of the further metadata of every example, None if it does not have it."""


class LatentCache:
    """A latent cache opened for reading; its files are memory-mapped.

    Examples are numbered from 0 in the order of the source; `len(cache)` is how many there are. Methods take their numbers
    as tensors (B,). Raw latents become the model's by `(raw - manifest.shift) * manifest.scale`, as in `iterate_latents`.

    Args:
        folder: what `encode` wrote.

    Attributes:
        channels: C of the latents.
        manifest: what the cache holds, and the encoders and settings that made it.
        index: of each example: its bucket of one shape, whether it is held out, the number of its views and captions.
        entries: the name and the checksum of the picture of each example.
        caption_texts: all distinct captions.

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

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{count} of {bucket}" for bucket, count in sorted(self.manifest.buckets.items()))
        return f"LatentCache({str(self.folder)!r}: {len(self)} pictures, {self.channels} channels, rows {shapes})"

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def channels(self) -> int:
        return len(self.manifest.mean)

    def verify(self) -> None:
        """Read every file and compare its checksum.

        Raises:
            ValueError: naming the files that changed.
        """
        self.refuse_damaged(find_damaged_files(self.folder, self.manifest))

    def refuse_damaged(self, wrong: Mapping[str, object]) -> None:
        """Raise for damaged files, of which each name is given with what is wrong, or if the empty caption is not empty."""
        if wrong:
            words = ", ".join(f"{name} {why}" for name, why in wrong.items())
            raise ValueError(f"cache {self.folder}: {words}; {REPAIR_ADVICE}")
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
        """Return the raw moments (B, C, H, W), as stored, of one view (B,) of each example (B,); all of one bucket."""
        rows = self._gather(examples, views, MOMENTS)
        return Moments(rows["mean"], rows.get("log_variance"))

    def maps(self, name: str, examples: Tensor, views: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return a map (B, C, h, w), as stored, of one view (B,) of each example (B,); all of one bucket.

        Args:
            masks: of random masks, the number of the one of each example (B,) that is returned; None for all, along C.
        """
        rows = self._gather(examples, views, [key_of(name)])
        if not rows:
            raise ValueError(f"cache {self.folder} has no map {name}; encode it again with this condition")
        return choose_masks(rows[key_of(name)], masks, channels=1 + self.channels)

    def _gather(self, examples: Tensor, views: Tensor, keys: Collection[str]) -> Rows:
        bucket = self.buckets[int(self.index.bucket[examples[0]])]
        return bucket.gather(self.index.row[examples], views, keys)

    def captions(self, examples: Tensor, chosen: Tensor, dropped: Tensor) -> CaptionBatch:
        """Return one caption of each example (B,): `chosen` (B,) in [0, 1) picks it; the empty one if `dropped` (B,)."""
        return self.numbered(self.index.caption_of(examples, chosen).masked_fill(dropped, self.manifest.empty))

    def numbered(self, numbers: Tensor) -> CaptionBatch:
        """Return captions by number, (B,)."""
        rows = self.caption_rows.gather(numbers)
        return CaptionBatch(rows["tokens"].long(), rows.get("embeddings"))

    @cached_property
    def shapes(self) -> Tensor:
        """(height, width) of each example's views, pixels, (N, 2)."""
        return torch.tensor([parse_bucket(bucket) for bucket in sorted(self.manifest.buckets)])[self.index.bucket.long()]

    @cached_property
    def entries(self) -> list[Entry]:
        """All entries, for messages and reports; training reads only the index."""
        return read_entries(self.folder)

    @cached_property
    def caption_texts(self) -> list[str]:
        """All distinct captions, by their numbers."""
        return read_captions(self.folder)

    def pick_texts(self, examples: Tensor, chosen: Tensor) -> list[str]:
        """Return the text of one caption of each example (B,), which `chosen` (B,) in [0, 1) picks."""
        return [self.caption_texts[number] for number in self.index.caption_of(examples, chosen).tolist()]

    def first_caption(self, example: int) -> str:
        """Return the text of an example's first caption."""
        return self.pick_texts(torch.tensor([example]), torch.zeros(1))[0]

    def captions_of(self, example: int) -> list[str]:
        """Return the texts of all captions of an example."""
        return [self.caption_texts[number] for number in self.index.captions_of(example).tolist()]

    def name(self, example: int) -> str:
        """Return an example's name in its source."""
        return self.entries[example].key

    def fields(self, examples: Tensor) -> list[dict[str, str]]:
        """Return the further metadata of examples (B,) in their source."""
        return read_fields(self.folder, examples.tolist())

    def column(self, name: str) -> Iterator[str | None]:
        """Yield one field of the further metadata of every example, None if it does not have it."""
        return iterate_field(self.folder, name)


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


def open_caches(folders: str | Sequence[str]) -> list[LatentCache]:
    """Open the cache of a folder, or of each of several.

    Raises:
        ValueError: there is no folder, or one that cannot be opened as a cache.
    """
    if not folders:
        raise ValueError("cache=[] names no cache; set it to a folder or a list of folders")
    return [LatentCache(folder) for folder in ([folders] if isinstance(folders, str) else folders)]
