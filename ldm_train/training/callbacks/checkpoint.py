"""Checkpoints that are whole or absent: written under another name, flushed, and renamed onto `checkpoints/last.ckpt`."""

import os
import shutil
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning import Callback

from ldm_train.training.callbacks.step_log import step_ended
from ldm_train.training.jsonl import JsonLinesLogger
from ldm_train.training.sharded_checkpoint import remove_unnamed_shares


class LastCheckpoint(Callback):
    """Saves `run_dir/checkpoints/last.ckpt` every so many optimizer steps and at the end.

    Args:
        run_dir: the run directory.
        every: optimizer steps.
    """

    def __init__(self, run_dir: Path, *, every: int) -> None:
        if every < 1:
            raise ValueError(f"checkpoint.every={every} must be at least 1 optimizer step")
        self.path = last_checkpoint(run_dir)
        self.every = every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if step_ended(trainer, batch_idx) and (
            trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
        ):
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, JsonLinesLogger):
                logger.save()
        writing = self.path.with_suffix(".writing")
        try:
            trainer.save_checkpoint(writing, weights_only=False)
        except (RuntimeError, OSError) as error:  # torch's writer reports a failed write by the first
            writing.unlink(missing_ok=True)
            free = shutil.disk_usage(self.path.parent).free / 2**20
            raise OSError(
                f"cannot write {writing} ({free:.0f} MiB are free there): {error}; {self.path.name} is as it was"
            ) from error
        if trainer.is_global_zero:
            with writing.open("rb") as file:
                os.fsync(file.fileno())
            writing.replace(self.path)
            remove_unnamed_shares(self.path.parent)
        trainer.strategy.barrier()


def last_checkpoint(run_dir: Path) -> Path:
    """Where a run's newest checkpoint lies."""
    return run_dir / "checkpoints" / "last.ckpt"
