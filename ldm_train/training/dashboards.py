"""One small interface to all dashboards: what is logged once in code is seen in every one, at the Trainer's step."""

from collections.abc import Mapping

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from ldm_train.training.jsonl import JsonLinesLogger, Record


def log_scalars(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Metrics by name."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=trainer.global_step)


def log_picture(trainer: pl.Trainer, name: str, picture: Tensor) -> None:
    """A uint8 picture (3, H, W)."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, trainer.global_step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture.permute(1, 2, 0).cpu().numpy()], step=trainer.global_step)


def log_record(trainer: pl.Trainer, name: str, record: Record) -> None:
    """A line of plain values and lists in the run directory's `NAME.jsonl`, which is cut back where a run resumes."""
    for logger in trainer.loggers:
        if isinstance(logger, JsonLinesLogger):
            logger.log_record(name, {"step": trainer.global_step, **record})
