"""The gradients of a step: their norm, their clipping, and steps that are left out because something is not finite."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from ldm_train.training.optimization.sharding import gathered

ON_DEVICE = (Adam,)  # AdamW is one; SGD's fused kernel leaves a momentum that it never set where its first step is left out


def total_norm(gradients: Sequence[Tensor | None]) -> Tensor:
    """The L2 norm of all gradients together, ()."""
    return gathered(torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None]))


def agreed(finite: Tensor) -> Tensor:
    """1 where every rank's step is finite, else 0, () float32, on the device alone.

    The gradients are the mean over all ranks, so their norm is every rank's; the losses are a rank's own.
    """
    applied = finite.float()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(applied, torch.distributed.ReduceOp.MIN)
    return applied


def clip(
    optimizer: Optimizer, parameters: Sequence[nn.Parameter], limit: float | None, algorithm: str | None, *, norm: Tensor
) -> None:
    """Scale gradients of a larger norm down to `limit`, or cut their values off there (algorithm "value"); None: neither.

    The fused Adam scales them in its own pass over them, which spares another; it takes no factor but in float32.
    """
    if not limit:
        return
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
    elif on_device(optimizer) and norm.dtype == torch.float32:
        optimizer.grad_scale = ((norm + 1e-6) / limit).clamp(min=1)  # type: ignore[attr-defined]
    else:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)


def leave_out(optimizer: Optimizer, parameters: Sequence[nn.Parameter], *, applied: Tensor) -> None:
    """Make the optimizer's coming step change nothing at all, neither weights nor its own state, where `applied` is 0.

    The fused Adam decides it on the device, as PyTorch's GradScaler has it do. Of other optimizers the host takes the
    gradients away, for which it has to wait for the device.
    """
    if on_device(optimizer):
        optimizer.found_inf = 1 - applied  # type: ignore[attr-defined]
    elif applied.item() == 0:
        for parameter in parameters:
            parameter.grad = None


def on_device(optimizer: Optimizer) -> bool:
    """Whether its step takes a divisor of the gradients, and a flag to do nothing, as tensors."""
    return isinstance(optimizer, ON_DEVICE) and bool(optimizer.defaults.get("fused"))
