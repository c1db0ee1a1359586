"""Treat tensors alike whether FSDP2 sharded them or not.

A sharded tensor is a `DTensor`, of which there are none before `torch.distributed.tensor` is imported; nothing here imports
it, since it takes long.
"""

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_dtensor(value: object) -> "TypeGuard[DTensor]":
    """Return whether a value is a sharded tensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def is_sharded(module: nn.Module) -> bool:
    """Return whether a forward pass needs all processes."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and any(isinstance(part, fsdp.FSDPModule) for part in module.modules())


def swap_value(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """Replace a parameter's value, and return the previous one.

    A sharded parameter keeps its memory, from which it is gathered, so its value is overwritten there.
    """
    if is_dtensor(parameter):
        before: Tensor = parameter.detach().clone()
        parameter.detach().copy_(value)
        return before
    before, parameter.data = parameter.data, value
    return before


def gather_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor in full. If it is sharded, every process must call this."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor."""
    return tensor.to_local() if is_dtensor(tensor) else tensor
