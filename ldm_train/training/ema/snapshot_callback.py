"""Store the averages of the weights while a run trains, so that other lengths can be reconstructed later."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning import Callback

from ldm_train.training.callbacks.step_log import step_ended
from ldm_train.training.ema.ema import EMA
from ldm_train.training.ema.profiles import Power
from ldm_train.training.ema.snapshots import SNAPSHOT_FOLDER, remove_later_snapshots, write_snapshot
from ldm_train.training.optimization.sharded_tensors import gather_tensor
from ldm_train.training.run_files import read_run_id


class SnapshotCallback(Callback):
    """Write the averages every so many optimizer steps and at the end.

    It must run after `ema` and before the checkpoint callback: then every checkpoint finds the snapshots of all steps
    before it on disk. Snapshots of later steps, left by a run that was killed after its checkpoint, are removed when it
    continues, and are written again.

    Args:
        ema: its `snapshots` say how often; None for never.
    """

    def __init__(self, run_dir: Path, ema: EMA) -> None:
        self.run_dir = run_dir
        self.ema = ema
        self.run_id = read_run_id(run_dir)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            remove_later_snapshots(self.run_dir, trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        ema, settings, step = self.ema, self.ema.snapshots, trainer.global_step
        if settings is None or not step_ended(trainer, batch_idx) or ema.number < 1:
            return
        if step % settings.every and step != trainer.max_steps:
            return
        averages = {
            p.length: {name: gather_tensor(average) for name, average in ema.averages[p.name].items()}
            for p in ema.profiles
            if isinstance(p, Power)
        }
        if trainer.is_global_zero:
            write_snapshot(
                self.run_dir / SNAPSHOT_FOLDER,
                averages,
                step=step,
                updates=ema.number,
                start_step=ema.start_step,
                dtype=settings.dtype,
                run_id=self.run_id,
            )
