"""Reconstructions of held-out pictures while an autoencoder trains."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from ldm_train.data.batches.picture_batches import PictureBatches
from ldm_train.data.pictures.images import save_png, to_display_bytes
from ldm_train.data.sources.items import Item
from ldm_train.metrics.pixel_distance import psnr
from ldm_train.training.autoencoder_module import AutoencoderTraining
from ldm_train.training.callbacks.picture_grids import make_grid_picture
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.callbacks.step_log import is_due
from ldm_train.training.ema.ema import EMA
from ldm_train.training.loggers.dashboards import log_picture, log_scalars, warn_of_nonfinite
from ldm_train.util.messages import note

HELD_OUT, TRAINED = "held_out_psnr", "train_psnr"
TRAINED_SAMPLE = 64  # training pictures that are measured, evenly spread


class Reconstructions(Callback):
    """Log the mean PSNR of held-out pictures, dB, and a grid of the first sixteen above their reconstructions.

    They are the averaged weights' reconstructions, if weights are averaged. Training pictures are measured if no picture is
    held out, and at the end; the metric is `train_psnr`.

    Args:
        every: optimizer steps; also at the end.
        ema: must run before this callback; None if nothing is averaged.
        before: measure before the first step too, because the autoencoder is trained already.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        every: int,
        ema: EMA | None = None,
        before: bool = False,
        batch_size: int = 32,
        spent: TimeSpent | None = None,
    ) -> None:
        self.spent = spent or TimeSpent()
        self.run_dir = run_dir
        self.every = every
        self.ema = ema
        self.before = before
        self.batch_size = batch_size

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.before and trainer.global_step == 0 and trainer.is_global_zero:
            self._show(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and is_due(trainer, batch_idx, every=self.every):
            self._show(trainer, pl_module)

    def _show(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, AutoencoderTraining)
        data = trainer.datamodule  # type: ignore[attr-defined]
        chosen = {HELD_OUT: data.held_out_items, TRAINED: choose_evenly(data.train_items, TRAINED_SAMPLE)}
        measured = [name for name, items in chosen.items() if items]
        if 0 < trainer.global_step < trainer.max_steps:
            measured = measured[:1]
        with self.spent("pictures"), self.ema.swapped(module) if self.ema else nullcontext():
            means = {name: self._mean_psnr(module, data, chosen[name]) for name in measured}
            pair = self._pair(trainer, module, data, chosen[measured[0]])
        log_scalars(trainer, means)
        if trainer.global_step == 0:
            note(f"before training: {', '.join(f'{name} {mean:.1f} dB' for name, mean in means.items())}")
        save_png(pair, self.run_dir / "samples" / f"step-{trainer.global_step:08d}.png")
        log_picture(trainer, "reconstructions", pair)

    def _mean_psnr(self, module: AutoencoderTraining, data: PictureBatches, items: Sequence[Item]) -> float:
        pairs = self._reconstruct(module, data, items)
        return torch.cat([psnr(decoded, images).cpu() for images, decoded in pairs]).mean().item()

    def _pair(self, trainer: pl.Trainer, module: AutoencoderTraining, data: PictureBatches, items: Sequence[Item]) -> Tensor:
        """Return a picture of the first images above their reconstructions."""
        images, decoded = next(self._reconstruct(module, data, items[:16]))
        images_and_decoded = to_display_bytes(torch.cat([images, decoded]))
        warn_of_nonfinite(trainer, "reconstructions", images_and_decoded[len(images) :])
        return make_grid_picture(images_and_decoded, columns=len(images))

    def _reconstruct(
        self, module: AutoencoderTraining, data: PictureBatches, items: Sequence[Item]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(items), self.batch_size):
            images = data.images(items[start : start + self.batch_size]).to(module.device)
            yield images, module.reconstruct(images)


def choose_evenly(items: Sequence[Item], most: int) -> Sequence[Item]:
    """Return at most so many items, evenly spread."""
    return items[:: -(-len(items) // most)] if items else items
