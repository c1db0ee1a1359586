"""The validation loss: on held-out examples with draws fixed per example, so that all checkpoints see the same noise."""

from contextlib import nullcontext

import pytorch_lightning as pl
from pytorch_lightning import Callback

from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.callbacks.step_log import is_due
from ldm_train.training.ema.ema import EMA
from ldm_train.training.loggers.dashboards import log_record, log_scalars
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.validation.compared import print_once
from ldm_train.training.validation.held_out import measure_held_out


class ValidationCallback(Callback):
    """Log `validation_loss` and `validation_noise_mse`, with intervals and by log-SNR, of the averaged and the raw weights.

    Losses are computed in the training's precision. Names without `raw` are of the averaged weights. The bins are logged as
    scalars, and as lines of `validation.jsonl`.

    Args:
        every: optimizer steps; also at the end of the run.
        batch_size: examples of one forward pass; None for as many as training takes at once. The loss does not depend on it.
        repeats: timesteps per example.
        bins: number of bins of log-SNR; fewer if there are few examples.
        examples: how many held-out examples at most, evenly spread; None for all.
        spent: to which the time of the validation is added.
    """

    def __init__(
        self,
        ema: EMA,
        *,
        every: int,
        batch_size: int | None = None,
        repeats: int = 4,
        bins: int = 8,
        examples: int | None = None,
        spent: TimeSpent | None = None,
    ) -> None:
        self.spent = spent or TimeSpent()
        self.ema = ema
        self.every = every
        self.batch_size = batch_size
        self.repeats = repeats
        self.bins = bins
        self.examples = examples

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not is_due(trainer, batch_idx, every=self.every):
            return
        assert isinstance(pl_module, NoisePredictorTraining)
        with self.spent("validation"):
            self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, module: NoisePredictorTraining) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        for weights in ("ema", "raw") if len(data.held_out) else ():
            with self.ema.swapped(module) if weights == "ema" else nullcontext():
                losses = measure_held_out(
                    module,
                    data,
                    batch_size=self.batch_size or data.geometry.rows,
                    repeats=self.repeats,
                    bins=self.bins,
                    examples=self.examples,
                    rank=trainer.global_rank,
                    world=trainer.world_size,
                )
            suffix = "" if weights == "ema" else "_raw"
            log_scalars(trainer, {f"validation_{name}": value for name, value in losses.scalars(suffix).items()})
            log_scalars(trainer, losses.bins(f"validation_bins{suffix}/"))
            log_record(trainer, "validation", {"weights": weights, **losses.record()})
            if weights == "ema":
                print_once(trainer, f"step {trainer.global_step}: validation loss {losses.total['loss'].mean:.4f}")
