"""Optimizers and LR schedules in the form the Trainer takes."""

from collections.abc import Callable

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import ParamsT

from ldm_train.training.optimization.lr_schedules import LRSchedule
from ldm_train.training.optimization.parameter_groups import SINGLE_GROUP, ParameterGroups


def build_optimizer(
    module: pl.LightningModule,
    make_optimizer: Callable[[ParamsT], Optimizer],
    lr_schedule: LRSchedule,
    parameter_groups: ParameterGroups = SINGLE_GROUP,
) -> OptimizerLRScheduler:
    """Build an optimizer of the module's trained parameters, and the LR schedule of its groups by optimizer steps.

    Raises:
        ValueError: the schedule does not fit into the run.
    """
    max_steps = module.trainer.max_steps
    lr_schedule.check(max_steps)
    optimizer = make_optimizer([dict(group) for group in parameter_groups(module.named_parameters())])
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_factor", 1.0)
    rate = LambdaLR(optimizer, lambda step: lr_schedule(step, max_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}
