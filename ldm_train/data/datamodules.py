"""The datamodules: what the Trainer asks for batches."""

from abc import abstractmethod
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ldm_train import draws
from ldm_train.data.batches import Geometry, endless_loader
from ldm_train.data.images import read_image, to_signed
from ldm_train.data.sources import Item
from ldm_train.types import ImageBatch, LatentBatch


class EndlessData(pl.LightningDataModule):
    """One endless epoch of global batches of `batch_size`, continued at the Trainer's step.

    Args:
        batch_size: examples of one optimizer step, over all devices.
        micro_batch_size: examples of one forward pass; None for the whole share of a device.
        seed: of the order.
    """

    def __init__(self, *, batch_size: int, micro_batch_size: int | None, seed: int, workers: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.workers = workers

    @abstractmethod
    def fetch(self, positions: Tensor) -> LatentBatch | ImageBatch:
        """The training examples at these positions of the run."""

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        self.geometry = Geometry(self.batch_size, self.trainer.world_size, self.trainer.global_rank, self.micro_batch_size)
        self.trainer.accumulate_grad_batches = self.geometry.accumulation

    def train_dataloader(self) -> DataLoader[LatentBatch | ImageBatch]:
        trainer = self.trainer
        assert trainer is not None
        return endless_loader(self.fetch, self.geometry, lambda: trainer.global_step, workers=self.workers)


class Pictures(EndlessData):
    """Pictures straight from their files, for the autoencoder's training.

    Args:
        items: the usable items of a source.
        size: side of the square pictures, pixels.
        flip: mirror half of them.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        size: int,
        batch_size: int,
        micro_batch_size: int | None = None,
        seed: int = 0,
        workers: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, micro_batch_size=micro_batch_size, seed=seed, workers=workers)
        self.train_items = [item for item in items if not item.held_out]
        self.held_out_items = [item for item in items if item.held_out]
        self.size = size
        self.flip = flip

    def images(self, items: Sequence[Item]) -> Tensor:
        """(B, 3, size, size) in [-1, 1]."""
        return to_signed(torch.stack([read_image(item.path, self.size) for item in items]))

    def fetch(self, positions: Tensor) -> ImageBatch:
        indices = draws.order(self.seed, positions, len(self.train_items))
        images = self.images([self.train_items[index] for index in indices.tolist()])
        if self.flip:
            mirrored = draws.uniform(self.seed, "flip", positions) < 0.5
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        return ImageBatch(positions, images)
