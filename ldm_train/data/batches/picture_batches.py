"""Batches of pictures decoded from their files, for training an autoencoder."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.data.batches.datamodules import EndlessData, MicroBatchSize
from ldm_train.data.pictures.images import DECODE_ERRORS, describe_decode_error, read_image, to_signed
from ldm_train.data.pictures.pixel_values import PixelFormat
from ldm_train.data.sources.items import Item, format_name
from ldm_train.types import ImageBatch
from ldm_train.util.messages import note


class PictureBatches(EndlessData):
    """Batches of pictures decoded from their files, for training an autoencoder.

    Args:
        items: the usable items of a source.
        size: side of the square pictures, pixels.
        flip: whether to mirror half of them.
        pixels: the format of values that are read as they are stored; None for 8-bit RGB.

    Raises:
        ValueError: no picture is left to train on.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        size: int,
        batch_size: int,
        micro_batch_size: MicroBatchSize = None,
        seed: int = 0,
        workers: int = 0,
        flip: bool = False,
        pixels: PixelFormat | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, micro_batch_size=micro_batch_size, seed=seed, workers=workers)
        self.train_items = [item for item in items if not item.held_out]
        self.held_out_items = [item for item in items if item.held_out]
        if not self.train_items:
            raise ValueError(f"no picture to train on: all {len(items)} usable ones are held out; add some that are not")
        self.size = size
        self.flip = flip
        self.pixels = pixels
        self.order = draws.Shuffle(seed, "order", len(self.train_items))
        self.unreadable: set[str] = set()

    def images(self, items: Sequence[Item]) -> Tensor:
        """Return images (B, C, size, size) in [-1, 1]; the next picture that decodes replaces one that does not.

        Raises:
            ValueError: no picture decodes.
        """
        return to_signed(torch.stack([self._image(item) for item in items]))

    def _image(self, item: Item) -> Tensor:
        candidates = self.held_out_items if item.held_out else self.train_items
        place = self._places[item.key]
        for number in range(len(candidates)):
            image = self._decode(candidates[(place + number) % len(candidates)])
            if image is not None:
                return image
        raise ValueError("no picture decodes; `ldm-train check` says why")

    @cached_property
    def _places(self) -> dict[str, int]:
        return {item.key: place for items in (self.train_items, self.held_out_items) for place, item in enumerate(items)}

    def _decode(self, item: Item) -> Tensor | None:
        if item.key in self.unreadable or item.picture is None:
            return None
        try:
            return read_image(item.picture.read(), self.size, pixels=self.pixels)
        except DECODE_ERRORS as error:
            self.unreadable.add(item.key)
            note(f"{format_name(item.key)} is replaced by another: {describe_decode_error(error)}")
            return None

    def names(self, positions: Tensor) -> list[str]:
        return [str(self.train_items[index].key) for index in self.order(positions).tolist()]

    def fetch(self, positions: Tensor) -> ImageBatch:
        images = self.images([self.train_items[index] for index in self.order(positions).tolist()])
        if self.flip:
            mirrored = draws.uniform(self.seed, "flip", positions) < 0.5
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        return ImageBatch(positions, images)
