"""The progress of a run in optimizer steps: a bar with loss, speed and time left on a terminal, else a line now and then."""

import sys
import time

import pytorch_lightning as pl
from pytorch_lightning import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.callbacks.step_log import StepLog, step_ended

TRAINING_TASK = "training"


class StepProgress(Callback):
    """Show a bar on a terminal, which also says what is done between steps; elsewhere print a line every `seconds`."""

    def __init__(self, step_log: StepLog, spent: TimeSpent, *, seconds: float = 30.0) -> None:
        self.step_log = step_log
        self.spent = spent
        self.seconds = seconds
        spent.listen(self._describe)
        self._bar: Progress | None = None
        self._last_line = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = (trainer.global_step, time.perf_counter())
        if trainer.is_global_zero and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), speed_estimate_period=120)
            self._task = self._bar.add_task(TRAINING_TASK, total=trainer.max_steps, completed=trainer.global_step, note="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero or not step_ended(trainer, batch_idx):
            return
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, note=self._note(trainer, now))
        elif now - self._last_line > self.seconds or trainer.global_step == trainer.max_steps:
            self._last_line = now
            print(f"step {trainer.global_step}/{trainer.max_steps}  {self._note(trainer, now)}", flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _describe(self, task: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=task or TRAINING_TASK)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _note(self, trainer: pl.Trainer, now: float) -> str:
        steps = trainer.global_step - self._started[0]
        step_time = (now - self._started[1]) / max(1, steps)
        geometry = trainer.datamodule.geometry  # type: ignore[attr-defined]
        minutes = (trainer.max_steps - trainer.global_step) * step_time / 60
        loss = f"loss {self.step_log.latest['loss']:.4f}  " if self.step_log.latest else ""
        return f"{loss}{geometry.batch_size / step_time:.1f} samples/s  {minutes:.1f} min left"
