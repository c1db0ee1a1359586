"""Pictures of a run, for people and dashboards."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.utils import make_grid


def grid(images: Tensor, *, columns: int) -> Tensor:
    """uint8 images (B, 3, H, W) in rows of `columns`, one picture (3, H', W')."""
    return make_grid(images, nrow=columns, padding=2, pad_value=255).to(torch.uint8)


def log_image(trainer: pl.Trainer, name: str, image: Tensor) -> None:
    """Hand one uint8 picture (3, H, W) to every dashboard at the Trainer's step."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, trainer.global_step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [image.permute(1, 2, 0).cpu().numpy()], step=trainer.global_step)
