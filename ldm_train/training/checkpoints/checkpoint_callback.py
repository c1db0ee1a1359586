"""When a run is saved, and which of its checkpoints stay."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback

from ldm_train.training.base_module import Training
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.callbacks.step_log import step_ended
from ldm_train.training.checkpoints.background_writer import BackgroundWriter
from ldm_train.training.checkpoints.checkpoint_files import BEST, keep_as, last_checkpoint, prune, read_step
from ldm_train.training.checkpoints.sharded_checkpoint import remove_unnamed_shares
from ldm_train.training.loggers.dashboards import TIMING_PREFIX, flush_dashboards, log_checkpoint
from ldm_train.training.loggers.jsonl import JsonLines
from ldm_train.training.run_files import RUN_ID, read_run_id
from ldm_train.util.files import make_folder
from ldm_train.util.messages import warn

COPIES = 4  # of each trained number: weight, average, two moments of the optimizer


@dataclass(frozen=True)
class Keeping:
    """Which checkpoints a run writes and keeps.

    Args:
        every: optimizer steps between them.
        keep: the newest so many stay.
        keep_every: those of every so many steps stay too; None for none.
        best: the one of the best value of this metric stays too, as `best.ckpt`; None for none.
        best_is: which value of it is best.
        shares: with sharded parameters, each process writes its part.
        background: write while training goes on, with a copy in the CPU's memory; "auto": on a GPU, unless in shares.

    Raises:
        ValueError: steps to keep at which none is written, or shares in the background.
    """

    every: int
    keep: int = 1
    keep_every: int | None = None
    best: str | None = None
    best_is: Literal["lowest", "highest"] = "lowest"
    shares: bool = False
    background: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.keep_every is not None and self.keep_every % self.every:
            raise ValueError(
                f"checkpoint.keep_every={self.keep_every} must be a multiple of checkpoint.every={self.every}, "
                "the steps at which there is one"
            )
        if self.shares and self.background is True:
            raise ValueError(
                "checkpoint.background=true does not go with checkpoint.shares=true, which all processes write together; "
                "leave checkpoint.background=auto"
            )
        if self.best is not None and self.best.startswith(TIMING_PREFIX):
            raise ValueError(f"checkpoint.best={self.best} is of the clock, not of the weights; see validation_loss")


class Checkpoints(Callback):
    """Saves `run_dir/checkpoints/last.ckpt` at the steps that are due, at a new best, and where the run is left.

    Args:
        lines: which has the metric to judge by. All dashboards are flushed before, so that what is in a checkpoint's past
            is on the disk.
        saved: called on the first rank with the step of each checkpoint.
    """

    def __init__(
        self,
        run_dir: Path,
        keeping: Keeping,
        lines: JsonLines,
        *,
        spent: TimeSpent | None = None,
        saved: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.run_dir = run_dir
        self.spent = spent or TimeSpent()
        self.run_id = read_run_id(run_dir)
        self.path = last_checkpoint(run_dir)
        self.keeping = keeping
        self.lines = lines
        self.saved = saved
        self.best = math.inf
        self.best_step: int | None = None
        self._warned = False
        self._kept: int | None = None  # the step after which nothing was left undone
        self._writer: BackgroundWriter | None = None
        self._saving = 0  # the step that it writes

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse at once what a full disk would end at the first checkpoint."""
        assert isinstance(pl_module, Training)
        if self._in_background(trainer.strategy.root_device):
            self._writer = BackgroundWriter()
        make_folder(self.path.parent)
        size = COPIES * sum(p.nbytes for p in pl_module.trained_parameters().values())
        # For a moment one more than are kept, of which a continued run has some.
        kept = self.keeping.keep + (self.keeping.best is not None)
        self._refuse_full(max(size, size * (1 + kept) - occupied(self.path.parent)), "the run's checkpoints")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do what a run that was killed between saving and keeping left undone."""
        step = trainer.global_step
        if trainer.is_global_zero and step and step != self._kept and read_step(self.path) == step:
            self._keep(step)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do the same after a run that was killed at its last checkpoint: it has no step left, and never starts training."""
        self.on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not step_ended(trainer, batch_idx):
            return
        self._finish(trainer, wait=False)
        step = trainer.global_step
        due = step % self.keeping.every == 0 or step == trainer.max_steps or trainer.should_stop
        if self._is_best(step) or due:
            with self.spent("checkpoints"):
                self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with self.spent("checkpoints"):
            self._finish(trainer, wait=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Wait for the last checkpoint. If that failed too, it is a warning: the run ends with the exception."""
        try:
            self._finish(trainer, wait=True)
        except Exception as error:
            warn(str(error))

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[RUN_ID] = self.run_id

    def state_dict(self) -> dict[str, float | int | str | None]:
        return {"best": self.best, "best_step": self.best_step, "best_of": self._best_of}

    def load_state_dict(self, state_dict: dict[str, float | int | str | None]) -> None:
        best, best_step = state_dict["best"], state_dict["best_step"]
        assert isinstance(best, float | int)
        assert not isinstance(best_step, str)
        if state_dict.get("best_of") == self._best_of:  # else it says nothing of another metric
            self.best, self.best_step = best, None if best_step is None else int(best_step)

    @property
    def _best_of(self) -> str:
        return f"{self.keeping.best_is} {self.keeping.best}"

    def _is_best(self, step: int) -> bool:
        name = self.keeping.best
        logged, value = self.lines.latest.get(name or "", (0, 0.0))
        if name is None or logged != step:
            return False
        value = value if self.keeping.best_is == "lowest" else -value
        if not value < self.best:
            return False
        self.best, self.best_step = value, step
        return True

    def _save(self, trainer: pl.Trainer) -> None:
        self._finish(trainer, wait=True)
        self._tell_unknown(trainer)
        flush_dashboards(trainer)
        if self.path.is_file():
            self._refuse_full(self.path.stat().st_size, "the next checkpoint")
        self._saving = step = trainer.global_step
        if self._writer is not None:
            later = partial(self._writer.start, then=partial(self._written, step))
            trainer.save_checkpoint(self.path, weights_only=False, storage_options=later)
            return
        trainer.save_checkpoint(self.path, weights_only=False)
        if trainer.is_global_zero:
            self._written(step)
        log_checkpoint(trainer, self.path, step)

    def _in_background(self, device: torch.device) -> bool:
        keeping = self.keeping
        return (device.type == "cuda" and not keeping.shares) if keeping.background == "auto" else keeping.background

    def _written(self, step: int) -> None:
        self.saved(step)
        self._keep(step)

    def _finish(self, trainer: pl.Trainer, *, wait: bool) -> None:
        """Log a checkpoint that was written in the background; raise what writing it raised."""
        if self._writer is not None and self._writer.finish(wait=wait):
            log_checkpoint(trainer, self.path, self._saving)

    def _tell_unknown(self, trainer: pl.Trainer) -> None:
        """Say once, at the first checkpoint, that there may never be a best one."""
        name, warned, self._warned = self.keeping.best, self._warned, True
        if name is not None and name not in self.lines.latest and not warned and trainer.is_global_zero:
            known = ", ".join(
                sorted(metric for metric in self.lines.latest if not metric.startswith((TIMING_PREFIX, "health/")))
            )
            warn(f"checkpoint.best={name} was not logged up to step {trainer.global_step}; there are: {known}")

    def _keep(self, step: int) -> None:
        keeping = self.keeping
        if keeping.keep > 1 or (keeping.keep_every is not None and step % keeping.keep_every == 0):
            keep_as(self.path, f"step-{step:08d}.ckpt")
        if self.best_step == step:
            keep_as(self.path, BEST)
        prune(self.run_dir, keep=keeping.keep if keeping.keep > 1 else 0, keep_every=keeping.keep_every)
        remove_unnamed_shares(self.path.parent)
        self._kept = step

    def _refuse_full(self, wanted: int, what: str) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if wanted > free:
            raise OSError(
                f"{what} will take {wanted / 2**20:.0f} MiB, and {self.path.parent} has {free / 2**20:.0f} MiB left; "
                f"make room, lower checkpoint.keep={self.keeping.keep}, or choose another run_dir"
            )


def occupied(folder: Path) -> int:
    """Bytes on the disk of all files in a folder, those of several names once."""
    return sum({(status.st_dev, status.st_ino): status.st_size for status in (f.stat() for f in folder.rglob("*"))}.values())
