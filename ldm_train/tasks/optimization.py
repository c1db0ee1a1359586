"""Optimizer and LR schedule of a config, refused where they cannot be before anything else is read."""

import torch
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

from ldm_train.tasks.config import build


def refuse_optimization(config: DictConfig) -> None:
    """Try an optimizer's settings on a parameter, and a schedule's on the length of the run.

    Raises:
        ValueError: not installed, no optimizer, settings that it does not take, or more steps than the run has.
    """
    target, make = config.optimizer.get("_target_"), build(config.optimizer)
    try:
        optimizer = make([nn.Parameter(torch.zeros(1, 1))])
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"optimizer._target_={target}: {error}; a setting that it does not take is left out by ~optimizer.NAME"
        ) from error
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"optimizer._target_={target} is no optimizer; name one, such as torch.optim.AdamW")
    build(config.lr_schedule).check(config.max_steps)
