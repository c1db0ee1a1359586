"""The averages of a run on disk as it goes, for lengths that nobody has thought of yet."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning import Callback

from ldm_train.training.callbacks.step_log import step_ended
from ldm_train.training.ema.ema import EMA
from ldm_train.training.ema.profiles import Power
from ldm_train.training.ema.snapshots import FOLDER, drop_later, write_snapshot
from ldm_train.training.optimization.sharding import gathered
from ldm_train.training.run_files import read_run_id


class Snapshots(Callback):
    """Writes the averages every so many optimizer steps and at the end; to be called after `ema` and before the checkpoint.

    So a checkpoint has all the snapshots before it; later ones, of a run that was cut, are removed and come again.

    Args:
        ema: its `snapshots` say how often; None: never.
    """

    def __init__(self, run_dir: Path, ema: EMA) -> None:
        self.run_dir = run_dir
        self.ema = ema
        self.run_id = read_run_id(run_dir)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            drop_later(self.run_dir, trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        ema, settings, step = self.ema, self.ema.snapshots, trainer.global_step
        if settings is None or not step_ended(trainer, batch_idx) or ema.number < 1:
            return
        if step % settings.every and step != trainer.max_steps:
            return
        averages = {
            p.length: {name: gathered(average) for name, average in ema.averages[p.name].items()}
            for p in ema.profiles
            if isinstance(p, Power)
        }
        if trainer.is_global_zero:
            write_snapshot(
                self.run_dir / FOLDER,
                averages,
                step=step,
                updates=ema.number,
                start_step=ema.start_step,
                dtype=settings.dtype,
                run_id=self.run_id,
            )
