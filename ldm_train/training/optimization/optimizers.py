"""Optimizers and LR schedules in the form the Trainer takes."""

import math
from collections.abc import Callable

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import ParamsT

from ldm_train.training.optimization.lr_schedules import LRSchedule
from ldm_train.training.optimization.parameter_groups import SINGLE_GROUP, ParameterGroups

TRIED = 1000  # steps of an LR schedule, spread over the run, and as many at its beginning


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
    check_factors(lr_schedule, max_steps)
    rate = LambdaLR(optimizer, lambda step: lr_schedule(step, max_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def check_factors(lr_schedule: LRSchedule, max_steps: int) -> None:
    """Raise if an LR schedule of own code gives no factor at a step of the run; a thousand steps are tried.

    Raises:
        ValueError: it raises, or returns something else than a finite number of at least 0.
    """
    if type(lr_schedule).__module__.startswith("ldm_train."):
        return
    name = f"lr_schedule: {type(lr_schedule).__name__} of step"
    for step in sorted({*range(0, max_steps, max(1, max_steps // TRIED)), *range(min(max_steps, TRIED)), max_steps - 1}):
        try:
            factor = lr_schedule(step, max_steps)
        except Exception as error:
            raise ValueError(f"{name} {step} of {max_steps} fails ({type(error).__name__}: {error})") from error
        if not isinstance(factor, int | float) or not 0 <= factor < math.inf:
            raise ValueError(f"{name} {step} of {max_steps} must be a finite number of at least 0, and is {factor!r}")
