"""The log of a step: every value that the training step returns, as its mean over the global batch."""

import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from ldm_train.training.base_module import Training
from ldm_train.training.loggers.dashboards import log_scalars


def step_ended(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Return whether this micro-batch completed an optimizer step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def is_logged(step: int, every: int, trainer: pl.Trainer) -> bool:
    """Return whether a step is logged: every so many steps, the first, and the last."""
    return step % every == 0 or step in (1, trainer.max_steps)


def is_due(trainer: pl.Trainer, batch_idx: int, *, every: int) -> bool:
    """Return whether this micro-batch completed a step at which something is done every so many steps and at the end."""
    step = trainer.global_step
    return step_ended(trainer, batch_idx) and (step % every == 0 or step == trainer.max_steps)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean of all ranks' values, on every rank."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values = values / torch.distributed.get_world_size()
    return values


def effective_rate(group: Mapping[str, Any]) -> float:
    """Return the rate of an optimizer's group; of Prodigy's, which finds it, the rate that it found times its factor."""
    found = group["d"] if "d0" in group else 1.0
    return float(group["lr"] * found)


class StepLog(Callback):
    """Log each returned value's mean over the global batch, the gradient's norm, the learning rate and the speed.

    Values stay on the device and are fetched only at logged steps.

    Args:
        every: optimizer steps; the first and the last step are logged too.
    """

    def __init__(self, *, every: int) -> None:
        self.every = every
        self._sums: dict[str, Tensor] = {}
        self._since = (0, time.perf_counter())
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = (trainer.global_step, time.perf_counter())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._rate = effective_rate(optimizer.param_groups[0])  # here: at the step's end it is already the next step's

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        assert isinstance(outputs, Mapping)
        for name, value in outputs.items():
            # Lightning has divided the returned loss by the number of micro-batches, but no other value.
            share = value.detach() if name == "loss" else value.detach() / trainer.accumulate_grad_batches
            self._sums[name] = self._sums[name] + share if name in self._sums else share
        if step_ended(trainer, batch_idx):
            if is_logged(trainer.global_step, self.every, trainer):
                self._log(trainer, pl_module)
            self._sums = {}

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        means = mean_over_ranks(torch.stack([value.double() for value in self._sums.values()])).tolist()
        step, now = trainer.global_step, time.perf_counter()
        self.latest = dict(zip(self._sums, means, strict=True)) | {"lr": self._rate, "grad_norm": pl_module.grad_norm.item()}
        geometry = trainer.datamodule.geometry  # type: ignore[attr-defined]
        speed = (step - self._since[0]) * geometry.batch_size / max(1e-9, now - self._since[1])
        self._since = (step, now)
        log_scalars(trainer, self.latest | {"time/samples_per_second": speed})
