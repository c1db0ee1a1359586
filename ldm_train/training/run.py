"""A run: the Trainer with its loggers and callbacks around one run directory, started or continued."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger

from ldm_train.data.datamodules import EndlessData
from ldm_train.training.callbacks.checkpoint import LastCheckpoint, last_checkpoint
from ldm_train.training.callbacks.progress import StepProgress
from ldm_train.training.callbacks.step_log import StepLog
from ldm_train.training.jsonl import JsonLinesLogger


def run(
    module: pl.LightningModule,
    data: EndlessData,
    *,
    run_dir: Path,
    max_steps: int,
    checkpoint_every: int,
    log_every: int,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    options: Mapping[str, object],
    resume: bool,
) -> None:
    """Train to `max_steps`, from the run directory's last checkpoint where there is one and `resume` allows it.

    Args:
        callbacks: called before the step's checkpoint is written.
        loggers: beside TensorBoard's and the JSON-lines one.
        log_every: optimizer steps between lines of metrics.
        options: the Trainer's own (devices, accelerator, strategy, precision, ...).
    """
    checkpoint = last_checkpoint(run_dir)
    resumed = resume and checkpoint.is_file()
    lines = JsonLinesLogger(run_dir)
    if resumed:
        step = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        lines.cut_back(step)
        print(f"continuing {run_dir} at step {step}")
    step_log = StepLog(every=log_every)
    trainer = pl.Trainer(
        max_steps=max_steps,
        log_every_n_steps=log_every,
        max_epochs=-1,
        logger=[TensorBoardLogger(run_dir, name="tensorboard", version=""), lines, *loggers],
        callbacks=[step_log, StepProgress(step_log), *callbacks, LastCheckpoint(run_dir, every=checkpoint_every)],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **options,  # type: ignore[arg-type]
    )
    trainer.fit(module, data, ckpt_path=checkpoint if resumed else None, weights_only=True)
