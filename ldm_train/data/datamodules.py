"""The datamodules: what the Trainer asks for batches."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ldm_train import draws
from ldm_train.data.batches import Geometry, endless_loader
from ldm_train.data.cache import Entry, LatentCache
from ldm_train.data.images import read_image, to_signed
from ldm_train.data.sources import Item
from ldm_train.types import ImageBatch, LatentBatch

EitherBatch = TypeVar("EitherBatch", LatentBatch, ImageBatch)


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

    def transfer_batch_to_device(self, batch: EitherBatch, device: torch.device, dataloader_idx: int) -> EitherBatch:
        """All but the positions, from which the CPU draws: reading them from a GPU would wait for it."""
        positions = batch.positions
        moved: EitherBatch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        moved.positions = positions
        return moved

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

    Raises:
        ValueError: nothing is left to train on.
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
        if not self.train_items:
            raise ValueError(f"no picture to train on: of {len(items)} usable ones all are held out")
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


class CachedLatents(EndlessData):
    """Batches from a latent cache: the caption among several, and whether it is dropped, are drawn here.

    Args:
        caption_dropout: share of examples whose caption is replaced by the empty one, for classifier-free guidance.
        held_out: share of the entries to keep from training where the source names none itself.

    Raises:
        ValueError: nothing is left to train on.
    """

    def __init__(
        self,
        cache: LatentCache,
        *,
        batch_size: int,
        micro_batch_size: int | None = None,
        seed: int = 0,
        caption_dropout: float = 0.1,
        held_out: float = 0.0,
    ) -> None:
        # Reading a memory map is faster in the main process than from workers.
        super().__init__(batch_size=batch_size, micro_batch_size=micro_batch_size, seed=seed, workers=0)
        self.cache = cache
        self.caption_dropout = caption_dropout
        self.train_entries, self.held_out_entries = split(cache.entries, held_out)
        if not self.train_entries:
            raise ValueError(f"cache {cache.folder} has no entry to train on: all {len(cache.entries)} are held out")

    def fetch(self, positions: Tensor) -> LatentBatch:
        indices = draws.order(self.seed, positions, len(self.train_entries))
        entries = [self.train_entries[index] for index in indices.tolist()]
        chosen = draws.uniform(self.seed, "caption", positions)
        dropped = draws.uniform(self.seed, "caption dropout", positions) < self.caption_dropout
        numbers = [entry.captions[int(u * len(entry.captions))] for entry, u in zip(entries, chosen.tolist(), strict=True)]
        captions = self.cache.captions(torch.tensor(numbers).masked_fill(dropped, 0))
        return LatentBatch(positions, self.cache.moments(entries), captions)

    def held_out_batch(self, indices: Tensor) -> LatentBatch:
        """Held-out examples by index (B,), with their first caption; the positions are the indices."""
        entries = [self.held_out_entries[index] for index in indices.tolist()]
        captions = self.cache.captions(torch.tensor([entry.captions[0] for entry in entries]))
        return LatentBatch(indices, self.cache.moments(entries), captions)


def split(entries: Sequence[Entry], share: float) -> tuple[list[Entry], list[Entry]]:
    """Entries to train on, and held-out ones: as the source says, else by the picture's hash, so copies stay together."""
    if any(entry.held_out for entry in entries):
        held_out = [entry for entry in entries if entry.held_out]
    else:
        held_out = [entry for entry in entries if int(entry.picture[:8], 16) / 2**32 < share]
    kept = {entry.key for entry in held_out}
    return [entry for entry in entries if entry.key not in kept], held_out
