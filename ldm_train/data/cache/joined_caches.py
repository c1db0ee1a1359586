"""Join several latent caches into one, without copying their latents."""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from ldm_train.data.cache.index import join_indices
from ldm_train.data.cache.manifest import Manifest, describe_differences
from ldm_train.data.cache.quality import choose_worst
from ldm_train.data.cache.reader import EncodedExamples, LatentCache
from ldm_train.types import CaptionBatch, Moments
from ldm_train.util.safe_json import Json


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
        self.shapes = torch.cat([cache.shapes for cache in caches])
        self.quality = choose_worst([cache.quality for cache in caches])

    def moments(self, examples: Tensor, views: Tensor) -> Moments:
        parts = [(mask, cache.moments(examples[mask] - start, views[mask])) for cache, start, mask in self._shares(examples)]
        mean = _scattered([(mask, part.mean) for mask, part in parts])
        variances = [(mask, part.log_variance) for mask, part in parts if part.log_variance is not None]
        return Moments(mean, _scattered(variances) if variances else None)

    def maps(self, name: str, examples: Tensor, views: Tensor, masks: Tensor | None = None) -> Tensor:
        return _scattered(
            [
                (own, cache.maps(name, examples[own] - start, views[own], None if masks is None else masks[own]))
                for cache, start, own in self._shares(examples)
            ]
        )

    def captions(self, examples: Tensor, chosen: Tensor, dropped: Tensor) -> CaptionBatch:
        parts = [
            (mask, cache.captions(examples[mask] - start, chosen[mask], dropped[mask]))
            for cache, start, mask in self._shares(examples)
        ]
        embeddings = [(mask, part.embeddings) for mask, part in parts if part.embeddings is not None]
        tokens = _scattered([(mask, part.tokens) for mask, part in parts])
        return CaptionBatch(tokens, _scattered(embeddings) if embeddings else None)

    def pick_texts(self, examples: Tensor, chosen: Tensor) -> list[str]:
        found: dict[int, str] = {}
        for cache, start, own in self._shares(examples):
            found |= zip(own.nonzero()[:, 0].tolist(), cache.pick_texts(examples[own] - start, chosen[own]), strict=True)
        return [found[place] for place in range(len(examples))]

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

    def column(self, name: str) -> Iterator[str | None]:
        return chain.from_iterable(cache.column(name) for cache in self.caches)

    def _own(self, example: int) -> tuple[LatentCache, int]:
        """Return the cache that contains an example, and the example's number there."""
        number = int(torch.searchsorted(self.starts, torch.tensor(example), right=True)) - 1
        return self.caches[number], example - int(self.starts[number])

    def _shares(self, examples: Tensor) -> list[tuple[LatentCache, Tensor, Tensor]]:
        """Return each cache with some of these examples, its first example's number, and a mask (B,) of its examples."""
        owner = torch.searchsorted(self.starts, examples, right=True) - 1
        return [(self.caches[n], self.starts[n], owner == n) for n in owner.unique().tolist()]


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


def join_caches(caches: Sequence[LatentCache]) -> EncodedExamples:
    """Return several caches as one, or the only one."""
    return caches[0] if len(caches) == 1 else JoinedCaches(caches)
