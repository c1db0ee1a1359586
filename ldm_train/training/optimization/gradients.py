"""The gradients of a step: their norm, clipping, and skipping the steps that are not finite."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from ldm_train.training.optimization.sharded_tensors import gather_tensor

# AdamW is a subclass. Not SGD: if its first step is skipped, its fused kernel leaves a momentum that was never set.
SKIPPING_ON_DEVICE = (Adam,)


def compute_total_norm(gradients: Sequence[Tensor | None]) -> Tensor:
    """Return the L2 norm of all gradients together, ()."""
    return gather_tensor(torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None]))


def all_ranks_finite(finite: Tensor) -> Tensor:
    """Return 1 if the step is finite on every rank, else 0, () float32, without waiting for the device.

    Gradients are averaged over the ranks, so their norm is the same on each; losses differ between ranks.
    """
    applied = finite.float()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(applied, torch.distributed.ReduceOp.MIN)
    return applied


def clip_gradients(
    optimizer: Optimizer, parameters: Sequence[nn.Parameter], limit: float | None, algorithm: str | None, *, norm: Tensor
) -> None:
    """Scale gradients down to the norm `limit`, or clamp their values to it if the algorithm is "value"; None does nothing.

    Fused Adam does the scaling in its own pass over the gradients, which saves another pass; it only takes a float32 factor.

    Args:
        norm: the norm of all gradients, ().
    """
    if not limit:
        return
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
    elif skips_on_device(optimizer) and norm.dtype == torch.float32:
        optimizer.grad_scale = ((norm + 1e-6) / limit).clamp(min=1)  # type: ignore[attr-defined]
    else:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)


def skip_step(optimizer: Optimizer, parameters: Sequence[nn.Parameter], *, applied: Tensor) -> None:
    """Make the coming optimizer step change neither weights nor what it keeps for each, if `applied` is 0.

    Fused Adam decides that on the device, as PyTorch's GradScaler lets it. For other optimizers the host deletes the
    gradients, and has to wait for the device to know.
    """
    if skips_on_device(optimizer):
        optimizer.found_inf = 1 - applied  # type: ignore[attr-defined]
    elif applied.item() == 0:
        for parameter in parameters:
            parameter.grad = None


def copy_group_values(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return what each group of an optimizer has next to its parameters, such as its rate, or a count of steps."""
    return [copy.deepcopy({k: v for k, v in group.items() if k != "params"}) for group in optimizer.param_groups]


def restore_group_values(optimizer: Optimizer, values: Sequence[dict[str, Any]]) -> None:
    """Give the groups of an optimizer exactly these values, in place."""
    for group, before in zip(optimizer.param_groups, values, strict=True):
        params = group["params"]
        group.clear()
        group.update(params=params, **before)


def skips_on_device(optimizer: Optimizer) -> bool:
    """Return whether the optimizer's step takes a divisor of the gradients and a flag to do nothing, both as tensors."""
    return isinstance(optimizer, SKIPPING_ON_DEVICE) and bool(optimizer.defaults.get("fused"))
