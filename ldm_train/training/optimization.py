"""Optimizers and LR schedules in the form the Trainer takes."""

from collections.abc import Callable, Iterable

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ldm_train.training.lr_schedules import LRSchedule


def optimizer_and_schedule(
    module: pl.LightningModule, make_optimizer: Callable[[Iterable[Tensor]], Optimizer], lr_schedule: LRSchedule
) -> OptimizerLRScheduler:
    """An optimizer of the module's trained parameters, its rate following `lr_schedule` by optimizer steps."""
    optimizer = make_optimizer([p for p in module.parameters() if p.requires_grad])
    max_steps = module.trainer.max_steps
    rate = LambdaLR(optimizer, lambda step: lr_schedule(step, max_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}
