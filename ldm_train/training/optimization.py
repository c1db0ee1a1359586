"""Optimizers and LR schedules in the form the Trainer takes."""

from collections.abc import Callable, Iterable

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ldm_train.training.lr_schedules import LRSchedule


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
    module: pl.LightningModule, make_optimizer: Callable[[Iterable[Tensor]], Optimizer], lr_schedule: LRSchedule
) -> OptimizerLRScheduler:
    """An optimizer of the module's trained parameters, its rate following `lr_schedule` by optimizer steps."""
    optimizer = make_optimizer([p for p in module.parameters() if p.requires_grad])
    max_steps = module.trainer.max_steps
    rate = LambdaLR(optimizer, lambda step: lr_schedule(step, max_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}
