"""Check the optimizer and the LR schedule before any data is read."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ldm_train.assembly.optimizer_limits import refuse_combinations
from ldm_train.settings.composition import build
from ldm_train.settings.schema.options import MIXED_16
from ldm_train.settings.schema.training import FittingSettings, TrainSettings
from ldm_train.training.optimization.gradients import copy_group_values
from ldm_train.training.optimization.parameter_groups import ParameterGroups
from ldm_train.util.text import first_line


def build_parameter_groups(config: TrainSettings) -> ParameterGroups:
    """Return which of a run's parameters have a rate, a decay or a method of their own.

    Raises:
        ValueError: a rate is no number above 0.
    """
    return ParameterGroups(**dict(config.parameter_groups), adamw_for=config.optimizer.get("adamw_for"))


def refuse_optimization(config: FittingSettings) -> None:
    """Raise if the optimizer cannot be built, or if the LR schedule does not fit into the run.

    Raises:
        ValueError: not installed, no optimizer, settings that it does not take or that do not go with it, or more steps than
            the run has.
    """
    target, make = config.optimizer.target, build(config.optimizer, "optimizer")
    try:
        optimizer = make([nn.Parameter(torch.zeros(1, 1))])
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"optimizer._target_={target}: {error}; a setting that it does not take is left out by ~optimizer.NAME"
        ) from error
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"optimizer._target_={target} is no optimizer; name one, such as torch.optim.AdamW")
    if not target.startswith("bitsandbytes."):  # whose steps need their own kernels
        refuse_unfit_optimizer(target, make)
    lr_schedule = build(config.lr_schedule, "lr_schedule")
    lr_schedule.check(config.max_steps)
    if isinstance(config, TrainSettings):
        build_parameter_groups(config)
    refuse_combinations(config, optimizer, lr_schedule)
    if isinstance(config, TrainSettings) and config.fused_backward:
        refuse_fused_backward(config, make)


def refuse_unfit_optimizer(target: str, make: Callable[[ParamsT], Optimizer]) -> None:
    """Raise if an optimizer cannot take one step of parameters as networks have them: vectors, matrices and convolutions.

    Raises:
        ValueError: such as of torch's Muon, which takes matrices only, SparseAdam, and LBFGS, which evaluates a loss several
            times.
    """
    try:
        require_closure(try_optimizer(make))
    except AssertionError:  # `capturable` needs weights on a GPU
        return
    except Exception as error:  # of any kind: schedulefree's is `Exception` itself, if its train() was not called
        raise ValueError(
            f"optimizer._target_={target} cannot train a network's weights, which are vectors, matrices and convolutions: "
            f"{first_line(error)}; choose another one, such as optimizer._target_=torch.optim.AdamW"
        ) from error


def try_optimizer(make: Callable[[ParamsT], Optimizer]) -> Optimizer:
    """Return an optimizer of a few small parameters, in two groups, with gradients of 0."""
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (2, 2, 1, 1), (2,))]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    groups: list[dict[str, object]] = [{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.0}]
    return make(groups)


def require_closure(optimizer: Optimizer) -> None:
    """Take two steps, and raise if one leaves out the forward and backward pass, which Lightning hands to it as a function.

    Raises:
        TypeError: `step` needs the function, does not take it, or does not call it.
    """
    calls: list[bool] = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        return 0.0

    optimizer.step()
    optimizer.step(closure)
    if not any(calls):
        raise TypeError("its step(closure) must call closure() once before it changes the weights, with torch.enable_grad()")


def refuse_fused_backward(config: TrainSettings, make: Callable[[ParamsT], Optimizer]) -> None:
    """Raise for settings that need all gradients at once.

    Raises:
        ValueError: clipping, accumulation, several devices, scaled gradients, or an optimizer that counts steps or keeps a
            rate for all parameters together.
    """
    trainer, size = config.trainer, config.micro_batch_size
    for setting, value, fits, instead in (
        ("trainer.gradient_clip_val", trainer.gradient_clip_val, trainer.gradient_clip_val in (None, 0), "null"),
        ("micro_batch_size", size, size in (None, config.batch_size), "null, or batch_size smaller"),
        ("trainer.devices", trainer.devices, trainer.devices == 1 and trainer.num_nodes == 1, "1"),
        ("trainer.precision", trainer.precision, trainer.precision not in MIXED_16, "bf16-mixed"),
        ("optimizer._target_", config.optimizer.target, not changes_groups(make), "torch.optim.AdamW"),
    ):
        if not fits:
            raise ValueError(
                f"{setting}={value} does not go with fused_backward=true, whose steps never see all gradients at once: "
                f"set {setting}={instead}, or fused_backward=false"
            )


def changes_groups(make: Callable[[ParamsT], Optimizer]) -> bool:
    """Return whether a step of an optimizer changes what it keeps for a group, such as a count of steps."""
    optimizer = try_optimizer(make)
    before = copy_group_values(optimizer)
    try:
        optimizer.step()
    except Exception:  # needs weights on a GPU, or its own kernels
        return False
    return copy_group_values(optimizer) != before
