"""Encoding at every step instead of once: the same batches as from a cache, for data too large or short-lived for one."""

from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count

import torch
from torch import Tensor

from ldm_train.data.datamodules import CachedLatents
from ldm_train.data.decoding import DECODE_ERRORS, decode_problem
from ldm_train.data.images import to_signed
from ldm_train.data.index import Index, columns
from ldm_train.data.items import shown
from ldm_train.data.plan import PictureRow, Plan, bucket_name
from ldm_train.training.encoding import Encoding, Rendering
from ldm_train.types import Captions, LatentBatch, Moments


class LivePictures:
    """A source's pictures as `Latents`: decoded ahead in threads, encoded when asked for.

    Args:
        plan: the entries, as a cache would have them.
        rendering: a picture's bytes to its views.
        encoding: pictures to moments, captions to tokens and embeddings, as for a cache.
    """

    def __init__(self, plan: Plan, rendering: Rendering, encoding: Encoding) -> None:
        self.entries = plan.entries()
        self.index = Index(**columns(self.entries, sorted(bucket_name(shape) for shape in plan.rows)))
        self.sets = [len(self.entries)]
        self.texts = plan.texts
        self.empty = plan.texts.index("")
        self.rendering = rendering
        self.encoding = encoding
        self.unreadable: set[int] = set()
        self._threads = ThreadPoolExecutor(cpu_count())
        self._ahead: dict[int, Future[Tensor]] = {}

    def moments(self, examples: Tensor, views: Tensor) -> Moments:
        every = [self._decoded(example).result() for example in examples.tolist()]
        self._ahead = {e: future for e, future in self._ahead.items() if e not in set(examples.tolist())}
        images = torch.stack([images[view] for images, view in zip(every, views.tolist(), strict=True)])
        encoded = self.encoding.pictures(to_signed(images).to(self.encoding.device))
        variance = encoded.get("log_variance")
        return Moments(encoded["mean"].cpu(), None if variance is None else variance.cpu())

    def captions(self, examples: Tensor, chosen: Tensor, dropped: Tensor) -> Captions:
        numbers = self.index.caption_of(examples, chosen).masked_fill(dropped, self.empty)
        encoded = self.encoding.captions([self.texts[number] for number in numbers.tolist()])
        embeddings = encoded.get("embeddings")
        return Captions(encoded["tokens"].long(), None if embeddings is None else embeddings.cpu())

    def first_caption(self, example: int) -> str:
        return self.texts[self.entries[example].captions[0]]

    def expect(self, examples: Tensor) -> None:
        """Start to decode what will be asked for."""
        for example in examples.tolist():
            self._decoded(example)

    def readable(self, examples: Tensor) -> Tensor:
        """The examples (B,), each that does not decode replaced by the next one of its bucket, which is told once.

        Raises:
            ValueError: none of a bucket decodes.
        """
        return torch.tensor([self._readable(example) for example in examples.tolist()])

    def _readable(self, example: int) -> int:
        count = len(self.entries)
        for other in ((example + step) % count for step in range(count)):
            if self.index.bucket[other] == self.index.bucket[example] and other not in self.unreadable:
                try:
                    self._decoded(other).result()
                    return other
                except DECODE_ERRORS as error:
                    self.unreadable.add(other)
                    print(f"{shown(self.entries[other].key)} is replaced by another: {decode_problem(error)}")
        raise ValueError("no picture of the source decodes; `ldm-train check` says why")

    def _decoded(self, example: int) -> "Future[Tensor]":
        """All views of an example, (V, 3, H, W) uint8, to come."""
        if example not in self._ahead:
            entry = self.entries[example]
            row = PictureRow("", entry.picture, entry.key, entry.size)
            self._ahead[example] = self._threads.submit(self.rendering, row)
        return self._ahead[example]


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

    def readable(self, examples: Tensor) -> Tensor:
        return self.latents.readable(examples)
