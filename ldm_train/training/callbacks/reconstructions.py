"""Reconstructions of held-out pictures while an autoencoder trains."""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from ldm_train.data.batches.datamodules import PictureBatches
from ldm_train.data.pictures.images import save_png, to_display_bytes
from ldm_train.data.sources.items import Item
from ldm_train.metrics.pixel_distance import psnr
from ldm_train.training.autoencoder_module import AutoencoderTraining
from ldm_train.training.callbacks.picture_grids import make_grid_picture, warn_of_nonfinite
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.callbacks.step_log import is_due
from ldm_train.training.loggers.dashboards import log_picture, log_scalars


class Reconstructions(Callback):
    """Log the mean PSNR of held-out pictures, dB, and a grid of the first sixteen above their reconstructions.

    If no picture is held out, the first 64 training pictures are used, and the metric is named `train_psnr`.
    """

    def __init__(self, run_dir: Path, *, every: int, batch_size: int = 32, spent: TimeSpent | None = None) -> None:
        self.spent = spent or TimeSpent()
        self.run_dir = run_dir
        self.every = every
        self.batch_size = batch_size

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and is_due(trainer, batch_idx, every=self.every):
            assert isinstance(pl_module, AutoencoderTraining)
            with self.spent("pictures"):
                self._show(trainer, pl_module)

    def _show(self, trainer: pl.Trainer, module: AutoencoderTraining) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        items, name = (
            (data.held_out_items, "held_out_psnr") if data.held_out_items else (data.train_items[:64], "train_psnr")
        )
        values, pair = self._compare(trainer, module, data, items)
        log_scalars(trainer, {name: values.mean().item()})
        save_png(pair, self.run_dir / "samples" / f"step-{trainer.global_step:08d}.png")
        log_picture(trainer, "reconstructions", pair)

    def _compare(
        self, trainer: pl.Trainer, module: AutoencoderTraining, data: PictureBatches, items: Sequence[Item]
    ) -> tuple[Tensor, Tensor]:
        values, pair = [], torch.empty(0)
        for start in range(0, len(items), self.batch_size):
            images = data.images(items[start : start + self.batch_size]).to(module.device)
            decoded = module.reconstruct(images)
            values.append(psnr(decoded, images).cpu())
            if start == 0:
                images_and_decoded = to_display_bytes(torch.cat([images[:16], decoded[:16]]))
                warn_of_nonfinite(trainer, "reconstructions", images_and_decoded[len(images_and_decoded) // 2 :])
                pair = make_grid_picture(images_and_decoded, columns=min(16, len(images)))
        return torch.cat(values), pair
