"""Optimizers and LR schedules in the form the Trainer takes."""

from collections.abc import Callable

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import ParamsT

from ldm_train.training.lr_schedules import LRSchedule
from ldm_train.training.parameter_groups import ALIKE, ParameterGroups


def clip_gradients(
    module: pl.LightningModule, optimizer: Optimizer, gradient_clip_val: float | None, gradient_clip_algorithm: str | None
) -> None:
    """Lightning's clipping, also of a fused optimizer under bf16-mixed, where nothing is scaled and Lightning refuses it."""
    if module.trainer.precision == "bf16-mixed" and gradient_clip_val and gradient_clip_algorithm != "value":
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
    else:
        module.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)


def optimizer_and_schedule(
    module: pl.LightningModule,
    make_optimizer: Callable[[ParamsT], Optimizer],
    lr_schedule: LRSchedule,
    parameter_groups: ParameterGroups = ALIKE,
) -> OptimizerLRScheduler:
    """An optimizer of the module's trained parameters, each group's rate following `lr_schedule` by optimizer steps.

    Raises:
        ValueError: the schedule does not fit into the run.
    """
    max_steps = module.trainer.max_steps
    lr_schedule.check(max_steps)
    optimizer = make_optimizer([dict(group) for group in parameter_groups(module.named_parameters())])
    rate = LambdaLR(optimizer, lambda step: lr_schedule(step, max_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}
