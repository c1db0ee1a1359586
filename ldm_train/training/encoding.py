"""Encoding as prediction: the Trainer shares batches of pictures among devices; a callback writes what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ldm_train.data.cache import file_digest
from ldm_train.data.cache_writer import CacheWriter
from ldm_train.data.images import DECODE_ERRORS, read_image, to_signed
from ldm_train.data.inspection import decode_problem
from ldm_train.data.sources import Item
from ldm_train.types import Autoencoder


@dataclass
class PictureBatch:
    """A batch to encode: images (B, 3, H, W), a digest per row ("" where the picture did not decode), and those problems."""

    number: int
    images: Tensor
    digests: list[str]
    problems: dict[str, str]


class PictureBatches(Dataset[PictureBatch]):
    """Batches of decoded pictures, all of one shape; a picture that does not decode leaves a black row and its problem."""

    def __init__(self, batches: Sequence[Sequence[Item]], *, rows: int, size: int) -> None:
        self.batches = batches
        self.rows = rows
        self.size = size

    def __getitem__(self, number: int) -> PictureBatch:
        images = torch.zeros(self.rows, 3, self.size, self.size, dtype=torch.uint8)
        digests, problems = [], {}
        for row, item in enumerate(self.batches[number]):
            try:
                images[row] = read_image(item.path, self.size)
                digests.append(file_digest(item.path))
            except DECODE_ERRORS as error:
                digests.append("")
                problems[item.key] = decode_problem(error)
        return PictureBatch(number, to_signed(images), digests, problems)


class Encoding(pl.LightningModule):
    """Pictures to raw moments."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def predict_step(self, batch: PictureBatch, batch_idx: int) -> dict[str, Tensor]:
        moments = self.autoencoder.encode(batch.images)
        kept = {"mean": moments.mean, "log_variance": moments.log_variance}
        return {name: tensor for name, tensor in kept.items() if tensor is not None}


class EncodingData(pl.LightningDataModule):
    """Every rank's share of the batches: one in world size."""

    def __init__(self, batches: PictureBatches, *, workers: int) -> None:
        super().__init__()
        self.batches = batches
        self.workers = workers

    def predict_dataloader(self) -> DataLoader[PictureBatch]:
        assert self.trainer is not None
        mine = range(self.trainer.global_rank, len(self.batches.batches), self.trainer.world_size)
        return DataLoader(self.batches, batch_size=None, sampler=mine, num_workers=self.workers)


class WriteParts(BasePredictionWriter):
    """Hands each encoded batch to the cache's writer in its storage type, names what did not decode, and shows progress."""

    def __init__(self, writer: CacheWriter, *, dtype: torch.dtype, total: int) -> None:
        super().__init__(write_interval="batch")
        self.writer = writer
        self.dtype = dtype
        self.total = total
        self._progress = Progress()
        self._task = self._progress.add_task("encoding", total=total)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.writer.start()
            self._progress.start()
        trainer.strategy.barrier()

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: PictureBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        moments = {name: tensor.to("cpu", self.dtype).contiguous() for name, tensor in prediction.items()}
        self.writer.write_part(batch.number, moments, batch.digests, batch.problems)
        for key, problem in batch.problems.items():
            print(f"left out {key}: {problem}")
        self._progress.update(self._task, completed=min(self.total, (batch_idx + 1) * trainer.world_size))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._progress.stop()
        trainer.strategy.barrier()
