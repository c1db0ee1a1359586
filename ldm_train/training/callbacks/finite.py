"""Steps that were skipped because their loss or gradient was not finite: record them, and stop after too many."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor
from torch.optim import Optimizer

from ldm_train.data.batches.datamodules import EndlessData
from ldm_train.training.base_module import Examined, Training
from ldm_train.training.callbacks.step_log import step_ended
from ldm_train.training.optimization.sharded_tensors import gather_tensor
from ldm_train.util.files import atomic_write
from ldm_train.util.messages import warn
from ldm_train.weights.tensor_files import write_tensor_file


class DivergedError(ValueError):
    """Too many steps in a row were not finite."""


@dataclass
class PendingStep:
    """A step that may have been skipped: what its micro-batches were, and the flag `applied`, on its way to the host."""

    step: int = 0
    examined: list[Examined] = field(default_factory=list)
    applied: Tensor | None = None


class NonFiniteSteps(Callback):
    """Record skipped steps, and raise after `limit` of them in a row.

    A step's flag is read just before the next optimizer step, so that the host never waits for the device. The weights are
    then still the ones that led to the failure, because neither step has changed them. At the first skipped step in a row
    they are kept as `nonfinite/step-….safetensors`; every rank writes its examples, timesteps and losses as JSON next to it.

    Args:
        limit: number of skipped steps in a row that ends the run.

    Raises:
        DivergedError: `limit` steps in a row were not finite.
    """

    def __init__(self, run_dir: Path, *, limit: int) -> None:
        self.folder = run_dir / "nonfinite"
        self.limit = limit
        self.in_a_row = 0
        self._last = 0
        self._now = PendingStep()
        self._before = PendingStep()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Training)
        self._now.examined.append(pl_module.examined)
        if step_ended(trainer, batch_idx):
            self._now.step = trainer.global_step
            self._now.applied = pl_module.applied.to("cpu", non_blocking=True)
            if pl_module.applied.is_cuda:
                self._copied = torch.cuda.Event()
                self._copied.record()
            self._before, self._now = self._now, PendingStep()

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        self._look(trainer, pl_module)
        self._refuse_diverged()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, object]) -> None:
        """Look at the last step before the checkpoint is written: a run continued from it does not repeat that step."""
        self._look(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer, pl_module)
        self._refuse_diverged()

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        attempt, self._before = self._before, PendingStep()
        if attempt.applied is None:
            return
        if pl_module.applied.is_cuda:
            self._copied.synchronize()
        self.in_a_row = 0 if attempt.applied.item() else self.in_a_row + 1
        if self.in_a_row:
            self._keep(trainer, pl_module, attempt)
            self._last = attempt.step

    def _refuse_diverged(self) -> None:
        if self.in_a_row >= self.limit:
            raise DivergedError(
                f"the loss or the gradient was not finite in {self.in_a_row} steps in a row, up to step {self._last} "
                f"(max_nonfinite_steps={self.limit}); none of them was applied. {self.folder} has their examples and the "
                "weights. Try a lower optimizer.lr, a longer lr_schedule.warmup_steps, or trainer.precision=32-true"
            )

    def _keep(self, trainer: pl.Trainer, module: Training, attempt: PendingStep) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        examples = [line for examined in attempt.examined for line in describe_examples(examined, data)]
        path = self.folder / f"step-{attempt.step:08d}-rank-{trainer.global_rank}.json"
        atomic_write(path, json.dumps({"step": attempt.step, "examples": examples}, indent=2) + "\n")
        if self.in_a_row == 1:
            weights = {name: gather_tensor(p.detach()).cpu() for name, p in module.trained_parameters().items()}
            if trainer.is_global_zero:
                write_tensor_file(self.folder / f"step-{attempt.step:08d}.safetensors", weights, {"step": attempt.step})
        if trainer.is_global_zero:
            names = ", ".join(str(line["example"]) for line in examples if line["finite"] is False) or "none"
            warn(f"step {attempt.step} was skipped: its loss or gradient is not finite (examples: {names}); see {path}")


def describe_examples(examined: Examined, data: EndlessData) -> list[dict[str, object]]:
    """Return what a micro-batch was, one entry per example, in plain values; a loss that is not finite as text."""
    losses = examined.losses.tolist()
    times = [None] * len(losses) if examined.t is None else examined.t.tolist()
    names = data.names(examined.positions)
    finite = examined.losses.isfinite().tolist()
    return [
        {"example": name, "t": t, "loss": loss if fine else str(loss), "finite": fine}
        for name, t, loss, fine in zip(names, times, losses, finite, strict=True)
    ]
