"""Tensors that belong to a parameter, laid out in memory as the parameter is.

A fused optimizer pairs a parameter with its moments by their order in memory. A checkpoint may have another order than the
run that continues from it, since `channels_last` may have been switched meanwhile.
"""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

COMPRESSED = (torch.uint8, torch.int8)  # whose scales belong to blocks of a tensor's memory


def match_strides(value: Tensor, parameter: Tensor) -> Tensor:
    """Return the value, of the parameter's shape, with the parameter's strides; itself if it has them already."""
    if local(value).stride() == local(parameter).stride():
        return value
    if isinstance(value, DTensor):
        return DTensor.from_local(
            match_strides(value.to_local(), local(parameter)),
            value.device_mesh,
            value.placements,
            shape=value.shape,
            stride=value.stride(),
        )
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def match_optimizer_strides(optimizer: Optimizer) -> None:
    """Give everything that the optimizer keeps of a parameter, such as its moments, the parameter's strides, in place.

    Raises:
        ValueError: moments in eight bits, which cannot be reordered.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor) or value.shape != parameter.shape or value.ndim < 2:
                continue
            state[name] = match_strides(value, parameter)
            if state[name] is not value and value.dtype in COMPRESSED:
                raise ValueError(
                    "channels_last cannot be switched in a run with an optimizer of eight bits, which keeps its moments in "
                    "the order of the weights in memory; set channels_last as the run was started with"
                )


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
