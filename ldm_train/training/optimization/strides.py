"""Give tensors that belong to a parameter the parameter's memory layout.

A fused optimizer pairs a parameter with its moments by their order in memory. A checkpoint may have another order than the
run that continues from it, because `channels_last` may have been switched.
"""

import torch
from torch import Tensor
from torch.optim import Optimizer

from ldm_train.training.optimization.sharded_tensors import is_dtensor, local_part

COMPRESSED = (torch.uint8, torch.int8)  # their scales belong to blocks of a tensor's memory, so they cannot be reordered


def match_strides(value: Tensor, parameter: Tensor) -> Tensor:
    """Return the value with the parameter's strides; the same tensor if it has them already. Both have one shape."""
    if local_part(value).stride() == local_part(parameter).stride():
        return value
    if is_dtensor(value):
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(
            match_strides(value.to_local(), local_part(parameter)),
            value.device_mesh,
            value.placements,
            shape=value.shape,
            stride=value.stride(),
        )
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def match_optimizer_strides(optimizer: Optimizer) -> None:
    """Give all tensors that the optimizer keeps for a parameter, such as its moments, the parameter's strides, in place.

    Raises:
        ValueError: moments in eight bits lie in another order than their parameter; they cannot be reordered without loss.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor) or value.shape != parameter.shape or value.ndim < 2:
                continue
            if value.dtype in COMPRESSED and memory_order(value) != memory_order(parameter):
                before = local_part(value).is_contiguous(memory_format=torch.channels_last)
                raise ValueError(
                    f"channels_last cannot be switched when a run with an 8-bit optimizer ({type(optimizer).__name__}) "
                    "continues: its moments are compressed in blocks of memory, in the order of the weights. "
                    f"Set channels_last={str(before).lower()}, as the run was started"
                )
            state[name] = match_strides(value, parameter)


def copy_optimizer_state(optimizer: Optimizer) -> None:
    """Copy what an optimizer keeps on the CPU, in place: it may lie in a mapped file, which would be kept with it."""
    for state in optimizer.state.values():
        state.update({name: v.clone() for name, v in state.items() if isinstance(v, Tensor) and v.device.type == "cpu"})


def memory_order(tensor: Tensor) -> list[int]:
    """Return the strides of the dimensions along which a tensor has more than one number; others move nothing."""
    part = local_part(tensor)
    return [stride for stride, size in zip(part.stride(), part.shape, strict=True) if size > 1]
