"""A run: the Trainer with its loggers and callbacks around one run directory, started or continued."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers.logger import Logger

from ldm_train.data.batches.datamodules import EndlessData
from ldm_train.training.base_module import Training
from ldm_train.training.callbacks.finite import NonFiniteSteps
from ldm_train.training.callbacks.health import Health
from ldm_train.training.callbacks.progress import StepProgress
from ldm_train.training.callbacks.spent import DataWaiting, TimeSpent
from ldm_train.training.callbacks.step_log import StepLog
from ldm_train.training.callbacks.stop import Stop
from ldm_train.training.callbacks.utilisation import Utilisation
from ldm_train.training.checkpoints.checkpoint_callback import Checkpoints, Keeping
from ldm_train.training.checkpoints.checkpoint_files import last_checkpoint, newest_whole, read_step
from ldm_train.training.ema.ema import EMA
from ldm_train.training.loggers.csv_table import CSVTable
from ldm_train.training.loggers.dashboards import Dashboard, PlainConfig
from ldm_train.training.loggers.jsonl import JsonLines
from ldm_train.training.loggers.other_loggers import as_dashboard
from ldm_train.training.loggers.tensorboard import TensorBoard
from ldm_train.training.optimization.micro_batch import MicroBatch
from ldm_train.util.files import link_file
from ldm_train.util.interrupts import interruptible
from ldm_train.util.messages import note


@dataclass(frozen=True)
class Limits:
    """When a run ends.

    Args:
        max_steps: of the optimizer, in all.
        max_time: of this process, from `started` on the clock of `time.monotonic`; None for no limit.
        max_nonfinite_steps: so many steps in a row that are not finite are an error.
    """

    max_steps: int
    started: float
    max_time: timedelta | None = None
    max_nonfinite_steps: int = 20


def run(
    module: Training,
    data: EndlessData,
    *,
    run_dir: Path,
    limits: Limits,
    keeping: Keeping,
    log_every: int,
    health_every: int,
    spent: TimeSpent,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    settings: PlainConfig,
    options: Mapping[str, object],
    first_rank: bool,
    resumed: bool,
    saved: Callable[[int], None],
) -> str | None:
    """Train to the end, from the run directory's last checkpoint where there is one.

    Args:
        callbacks: called before the step's checkpoint is written.
        loggers: next to TensorBoard, the JSON lines and their table.
        settings: the run's config in plain values, for dashboards to show.
        log_every: optimizer steps between lines of metrics.
        health_every: those between looks at the weights and the machine.
        spent: what the callbacks add their time to.
        options: the Trainer's own (devices, accelerator, strategy, precision, plugins, ...).
        first_rank: whether this process is the one that writes.
        resumed: whether the run directory has a checkpoint to continue from.
        saved: called on the first rank with the step of each checkpoint.

    Returns:
        Why the run was saved and left before its end: a signal's name, or "max_time"; None where it is finished.
    """
    # The other ranks may not look into what the first one is about to mend.
    checkpoint = to_continue(run_dir) if first_rank else last_checkpoint(run_dir) if resumed else None
    lines = JsonLines(run_dir)
    dashboards = [TensorBoard(run_dir), lines, CSVTable(run_dir), *map(as_dashboard, loggers)]
    if first_rank:
        begin(dashboards, settings, run_dir, checkpoint, max_steps=limits.max_steps)
    micro_batch, step_log, utilisation = MicroBatch(), StepLog(every=log_every), Utilisation()
    stop = Stop(max_time=limits.max_time, started=limits.started)
    trainer = pl.Trainer(
        max_steps=limits.max_steps,
        log_every_n_steps=log_every,
        max_epochs=-1,
        logger=dashboards,
        callbacks=[
            micro_batch,
            stop,
            NonFiniteSteps(run_dir, limit=limits.max_nonfinite_steps),
            step_log,
            StepProgress(step_log, spent),
            utilisation,
            *callbacks,
            Health(every=health_every, ema=average(callbacks), spent=spent, utilisation=utilisation),
            Checkpoints(run_dir, keeping, lines, spent=spent, saved=saved),
            DataWaiting(spent),
        ],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **options,  # type: ignore[arg-type]
    )
    try:
        with interruptible():
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except torch.OutOfMemoryError as error:
        raise ValueError(micro_batch.advice) from error
    return stop.reason if trainer.global_step < limits.max_steps else None


def average(callbacks: Sequence[Callback]) -> EMA | None:
    """The one of these that averages the weights."""
    return next((callback for callback in callbacks if isinstance(callback, EMA)), None)


def begin(
    dashboards: Sequence[Dashboard], settings: PlainConfig, run_dir: Path, checkpoint: Path | None, *, max_steps: int
) -> None:
    """Have the dashboards start anew, or go on from a checkpoint's step."""
    step = None if checkpoint is None else read_step(checkpoint)
    if step is not None:
        note(f"continuing {run_dir} at step {step}")
        if step >= max_steps:
            note(f"already at step {step} of max_steps={max_steps}: nothing to train; raise max_steps to go on")
    for dashboard in dashboards:
        dashboard.attempt(lambda dashboard=dashboard: dashboard.begin(settings, step))  # type: ignore[misc]


def to_continue(run_dir: Path) -> Path | None:
    """The checkpoint to continue from, which is the last one, or becomes it where that is damaged."""
    last = last_checkpoint(run_dir)
    whole = newest_whole(run_dir)
    if whole is not None and whole != last:
        note(f"continuing from {whole} instead")
        link_file(whole, last)
    return None if whole is None else last
