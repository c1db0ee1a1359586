"""The exponential moving average of the trained weights, beside the raw ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from ldm_train.training.callbacks.step_log import step_ended
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.sharding import swap


class EMA(Callback):
    """average <- average + (1 - d) (weights - average), with d = min(decay, (1 + n) / (10 + n)) at the n-th update.

    The warm-up of d is that of Polyak averaging as TensorFlow's ExponentialMovingAverage has it; it lets a short run forget
    its start.

    Args:
        decay: the share that is kept at each optimizer step.
    """

    def __init__(self, *, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay={decay} must be from 0 (no averaging) to below 1")
        self.decay = decay
        self.updates = 0
        self.average: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if step_ended(trainer, batch_idx):
            self.update(pl_module)

    def start(self, pl_module: pl.LightningModule) -> None:
        """Start from the weights as they are, or go on from the average that was loaded."""
        weights = _trained(pl_module)
        started = self.average or weights
        self.average = {name: started[name].detach().to(p.device, copy=True) for name, p in weights.items()}

    @torch.no_grad()
    def update(self, pl_module: pl.LightningModule) -> None:
        """Follow the weights after an optimizer step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.average.values()), list(_trained(pl_module).values()), 1 - decay)

    @contextmanager
    def swapped(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """The averaged weights in the raw ones' place, which come back whatever happens."""
        weights = _trained(pl_module)
        raw: dict[str, Tensor] = {}
        try:
            for name, p in weights.items():
                raw[name] = swap(p, self.average[name])
            yield
        finally:
            for name, value in raw.items():
                swap(weights[name], value)

    def state_dict(self) -> dict[str, object]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        updates, average = state_dict["updates"], state_dict["average"]
        assert isinstance(updates, int)
        assert isinstance(average, dict)
        self.updates, self.average = updates, average


def ema_weights(checkpoint: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Tensor]]]]) -> Mapping[str, Tensor]:
    """The averaged weights in a loaded checkpoint, by the names of the raw ones."""
    return checkpoint["callbacks"]["EMA"]["average"]


def _trained(pl_module: pl.LightningModule) -> Mapping[str, torch.nn.Parameter]:
    assert isinstance(pl_module, NoisePredictorTraining)
    return pl_module.trained_parameters()
