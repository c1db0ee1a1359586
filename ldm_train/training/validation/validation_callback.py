"""The validation loss: with draws fixed per example, so that all checkpoints see the same noise.

The loss of as many trained examples stands next to it: both fall while a model learns what the pictures have in common; if
only that of the trained ones falls, the model learns these pictures.
"""

from contextlib import nullcontext

import pytorch_lightning as pl
from pytorch_lightning import Callback
from torch import Tensor

from ldm_train.data.batches.holding_out import spread_evenly
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.callbacks.step_log import is_due
from ldm_train.training.ema.ema import EMA
from ldm_train.training.loggers.dashboards import log_record, log_scalars
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.validation.compared import choose_trained, print_once
from ldm_train.training.validation.fixed_losses import FixedLosses, measure_losses
from ldm_train.util.held_out_figures import say_if_few, taught_name


class ValidationCallback(Callback):
    """Log `validation_loss` and `validation_noise_mse`, with intervals and by log-SNR, of the averaged and the raw weights.

    Losses are computed in the training's precision. Names without `raw` are of the averaged weights, names with `taught` of
    the averaged weights on trained examples. The bins are logged as scalars, and as lines of `validation.jsonl`.

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
        held_out = spread_evenly(data.held_out, self.examples)
        if not len(held_out):
            return
        for weights in ("ema", "raw"):
            with self.ema.swapped(module) if weights == "ema" else nullcontext():
                losses = self._losses(trainer, module, held_out)
                if weights == "ema":
                    taught = self._losses(trainer, module, choose_trained(data, len(held_out), most=self.examples))
            suffix = "" if weights == "ema" else "_raw"
            scalars = {f"validation_{name}": value for name, value in losses.scalars(suffix).items()}
            if weights == "ema":
                scalars |= {taught_name(f"validation_{name}"): value for name, value in taught.scalars().items()}
                print_once(trainer, f"step {trainer.global_step}: {describe_losses(losses, taught)}")
            log_scalars(trainer, scalars | losses.bins(f"validation_bins{suffix}/"))
            log_record(trainer, "validation", {"weights": weights, **losses.record()})

    def _losses(self, trainer: pl.Trainer, module: NoisePredictorTraining, examples: Tensor) -> FixedLosses:
        """Return the losses of examples (N,)."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        return measure_losses(
            module,
            data,
            examples,
            batch_size=self.batch_size or data.geometry.rows,
            repeats=self.repeats,
            bins=self.bins,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )


def describe_losses(held_out: FixedLosses, taught: FixedLosses) -> str:
    """Return both losses in words, and whether the held-out one is of too few pictures."""
    few = say_if_few(held_out.examples)
    return (
        f"validation loss {held_out.total['loss'].mean:.4f}{f' ({few})' if few else ''}, "
        f"of trained examples {taught.total['loss'].mean:.4f}"
    )
