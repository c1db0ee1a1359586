"""What becomes of steps whose loss or gradient was not finite, and so were left out: told, kept to be looked at, counted."""

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
from ldm_train.training.optimization.sharding import gathered
from ldm_train.util.files import atomic_write
from ldm_train.weights.tensor_files import write_tensor_file


class DivergedError(ValueError):
    """So many steps in a row were not finite that the run is lost."""


@dataclass
class Attempt:
    """A step that may have been left out: what its micro-batches saw, and the flag, on its way to the host."""

    step: int = 0
    examined: list[Examined] = field(default_factory=list)
    applied: Tensor | None = None


class NonFinite(Callback):
    """Looks at each step's flag when the next one is about to be taken, so that no device waits for the host.

    The weights are then still those that led to it, for neither step has changed them. They are kept, of the first step in
    a row, as `nonfinite/step-….safetensors`; beside them every rank tells its examples, timesteps and losses as JSON.

    Args:
        limit: so many steps in a row end the run.
    """

    def __init__(self, run_dir: Path, *, limit: int) -> None:
        self.folder = run_dir / "nonfinite"
        self.limit = limit
        self.in_a_row = 0
        self._last = 0
        self._now = Attempt()
        self._before = Attempt()

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
            self._before, self._now = self._now, Attempt()

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        self._look(trainer, pl_module)
        self._refuse_diverged()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, object]) -> None:
        """Look before the checkpoint is there: a run that is continued from it does not see its last step again."""
        self._look(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer, pl_module)
        self._refuse_diverged()

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        attempt, self._before = self._before, Attempt()
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
                f"(max_nonfinite_steps={self.limit}); none of them was applied. {self.folder} names their examples and "
                "holds the weights; try a lower optimizer.lr, a longer lr_schedule.warmup_steps, trainer.precision=32-true"
            )

    def _keep(self, trainer: pl.Trainer, module: Training, attempt: Attempt) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        told = [line for examined in attempt.examined for line in told_examples(examined, data)]
        path = self.folder / f"step-{attempt.step:08d}-rank-{trainer.global_rank}.json"
        atomic_write(path, json.dumps({"step": attempt.step, "examples": told}, indent=2) + "\n")
        if self.in_a_row == 1:
            weights = {name: gathered(p.detach()).cpu() for name, p in module.trained_parameters().items()}
            if trainer.is_global_zero:
                write_tensor_file(self.folder / f"step-{attempt.step:08d}.safetensors", weights, {"step": attempt.step})
        if trainer.is_global_zero:
            names = ", ".join(str(line["example"]) for line in told if line["finite"] is False) or "none of them alone"
            print(f"warning: step {attempt.step} was not finite and is left out; see {path} (examples: {names})")


def told_examples(examined: Examined, data: EndlessData) -> list[dict[str, object]]:
    """What a micro-batch saw, an example each, in plain values; a loss that is no number as text."""
    losses = examined.losses.tolist()
    times = [None] * len(losses) if examined.t is None else examined.t.tolist()
    names = data.names(examined.positions)
    finite = examined.losses.isfinite().tolist()
    return [
        {"example": name, "t": t, "loss": loss if fine else str(loss), "finite": fine}
        for name, t, loss, fine in zip(names, times, losses, finite, strict=True)
    ]
