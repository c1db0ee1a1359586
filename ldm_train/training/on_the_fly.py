"""Encoding at every step instead of once: the same batches as from a cache, for data too large or short-lived for one."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from os import cpu_count

import torch
from torch import Tensor

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.encoding_batches import PictureRow
from ldm_train.data.cache.index import CacheIndex, build_columns
from ldm_train.data.cache.plan import CachePlan, format_bucket, parse_bucket
from ldm_train.data.cache.quality import NOT_MEASURED, Quality
from ldm_train.data.pictures.decoding import DECODE_ERRORS, describe_decode_error
from ldm_train.data.pictures.images import to_signed
from ldm_train.data.pictures.maps import MapError, choose_masks
from ldm_train.data.sources.items import format_name
from ldm_train.training.encoding import Encoding
from ldm_train.training.rendering import MASKED, Rendered, Rendering, UnreadError
from ldm_train.types import CaptionBatch, LatentBatch, Moments
from ldm_train.util.messages import note


class PlannedExamples:
    """What is known of a source's pictures before any is encoded.

    Args:
        plan: the entries, as a cache would have them.
    """

    def __init__(self, plan: CachePlan) -> None:
        self.entries = plan.entries()
        self.index = CacheIndex(**build_columns(self.entries, sorted(format_bucket(shape) for shape in plan.rows)))
        self.shapes = torch.tensor([parse_bucket(entry.bucket) for entry in self.entries])
        self.sets = [len(self.entries)]
        self.texts = plan.texts
        self.empty = plan.empty

    def pick_texts(self, examples: Tensor, chosen: Tensor) -> list[str]:
        return [self.texts[number] for number in self.index.caption_of(examples, chosen).tolist()]

    def first_caption(self, example: int) -> str:
        return self.texts[self.entries[example].captions[0]]

    def captions_of(self, example: int) -> list[str]:
        return [self.texts[number] for number in self.entries[example].captions]

    def name(self, example: int) -> str:
        return self.entries[example].key

    def fields(self, examples: Tensor) -> list[dict[str, str]]:
        return [self.entries[example].fields for example in examples.tolist()]

    def column(self, name: str) -> Iterator[str | None]:
        return (entry.fields.get(name) for entry in self.entries)

    def maps(self, name: str, examples: Tensor, views: Tensor, masks: Tensor | None = None) -> Tensor:
        raise NotImplementedError("only what is encoded has maps")


class LivePictures(PlannedExamples):
    """A source's pictures as `Latents`: decoded ahead in threads, encoded when asked for.

    Args:
        plan: the entries, as a cache would have them.
        rendering: a picture's bytes to its views.
        encoding: pictures to moments, captions to tokens and embeddings, as for a cache.
        quality: what the latents keep of the pictures.
    """

    def __init__(self, plan: CachePlan, rendering: Rendering, encoding: Encoding, quality: Quality = NOT_MEASURED) -> None:
        super().__init__(plan)
        self.quality = quality
        self.rendering = rendering
        self.encoding = encoding
        self.unreadable: set[int] = set()
        self._threads = ThreadPoolExecutor(cpu_count())
        self._ahead: dict[int, Future[Rendered]] = {}
        self._maps: dict[int, dict[str, Tensor]] = {}  # of the examples that were asked for last

    def moments(self, examples: Tensor, views: Tensor) -> Moments:
        every = [self._decoded(example).result() for example in examples.tolist()]
        self.let_go(examples)
        self._maps = {example: one.maps for example, one in zip(examples.tolist(), every, strict=True)}
        images = torch.stack([one.images[view] for one, view in zip(every, views.tolist(), strict=True)])
        encoded = self.encoding.pictures(to_signed(images).to(self.encoding.device))
        variance = encoded.get("log_variance")
        return Moments(encoded["mean"].cpu(), None if variance is None else variance.cpu())

    def maps(self, name: str, examples: Tensor, views: Tensor, masks: Tensor | None = None) -> Tensor:
        if not self._maps.keys() >= {*examples.tolist()}:
            self._maps = {example: self._decoded(example).result().maps for example in examples.tolist()}
            self.let_go(examples)
        pairs = zip(examples.tolist(), views.tolist(), strict=True)
        values = torch.stack([self._maps[example][name][view] for example, view in pairs])
        values = choose_masks(values, masks, channels=MASKED)
        return self.encoding.map_values(name, values.to(self.encoding.device)).cpu()

    def captions(self, examples: Tensor, chosen: Tensor, dropped: Tensor) -> CaptionBatch:
        numbers = self.index.caption_of(examples, chosen).masked_fill(dropped, self.empty)
        encoded = self.encoding.captions([self.texts[number] for number in numbers.tolist()])
        embeddings = encoded.get("embeddings")
        return CaptionBatch(encoded["tokens"].long(), None if embeddings is None else embeddings.cpu())

    def let_go(self, examples: Tensor) -> None:
        """Forget what was decoded of these examples, (B,)."""
        self._ahead = {e: future for e, future in self._ahead.items() if e not in set(examples.tolist())}

    def expect(self, examples: Tensor) -> None:
        """Start to decode what will be asked for."""
        for example in examples.tolist():
            self._decoded(example)

    def readable(self, examples: Tensor, among: Tensor) -> Tensor:
        """The examples (B,), each that cannot be had replaced by the next one of its bucket `among` these; reported once.

        Raises:
            ValueError: none of a bucket can be had.
        """
        return torch.tensor([self._readable(example, among) for example in examples.tolist()], dtype=torch.int64)

    def _readable(self, example: int, among: Tensor) -> int:
        if self._can_be_had(example):
            return example
        alike = among[self.index.bucket[among] == self.index.bucket[example]]
        after = torch.cat([alike[alike > example], alike[alike < example]]).tolist()
        for other in after:
            if self._can_be_had(other):
                return other
        raise ValueError("no picture of one shape decodes; `ldm-train check` says why")

    def _can_be_had(self, example: int) -> bool:
        if example in self.unreadable:
            return False
        try:
            self._decoded(example).result()
        except (UnreadError, MapError) as error:
            return self._refuse(example, str(error))
        except DECODE_ERRORS as error:
            return self._refuse(example, describe_decode_error(error))
        return True

    def _refuse(self, example: int, problem: str) -> bool:
        self.unreadable.add(example)
        note(f"{format_name(self.entries[example].key)} is replaced by another: {problem}")
        return False

    def _decoded(self, example: int) -> "Future[Rendered]":
        """All views of an example and its maps, to come."""
        if example not in self._ahead:
            entry = self.entries[example]
            row = PictureRow("", entry.picture, entry.key, entry.size, entry.maps)
            self._ahead[example] = self._threads.submit(self._render, row)
        return self._ahead[example]

    def _render(self, row: PictureRow) -> Rendered:
        images = self.rendering(row)
        return Rendered(images, self.rendering.maps(row, images))


class OnTheFly(CachedLatents):
    """Batches of pictures that are encoded as they are asked for; the next batch's are decoded meanwhile."""

    latents: LivePictures

    def setup(self, stage: str) -> None:
        super().setup(stage)
        assert self.trainer is not None
        self.latents.encoding.to(self.trainer.strategy.root_device)

    def fetch(self, positions: Tensor) -> LatentBatch:
        self.latents.expect(self.order(positions + self.geometry.rows * self.geometry.world_size))
        return super().fetch(positions)

    def names(self, positions: Tensor) -> list[str]:
        return [self.latents.name(example) for example in self.available(self.order(positions)).tolist()]

    def readable(self, examples: Tensor) -> Tensor:
        held_out = torch.isin(examples[:1], self.held_out).all()
        return self.latents.readable(examples, self.held_out if held_out else self._trained_on)

    def available(self, examples: Tensor) -> Tensor:
        readable = self.readable(examples)
        self.latents.let_go(readable)
        return readable

    @cached_property
    def _trained_on(self) -> Tensor:
        return torch.cat(self.train)
