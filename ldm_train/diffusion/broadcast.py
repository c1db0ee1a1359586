"""The one place where a value per example is broadcast to a tensor, and where values on the CPU move to a device."""

import torch
from torch import Tensor


def move_to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return values on a device; from the CPU to a GPU without making either wait."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def broadcast_like(values: Tensor, like: Tensor) -> Tensor:
    """Return values (B,) as (B, 1, ..., 1), to multiply with `like` (B, ...), in its dtype and on its device."""
    return move_to_device(values.to(like.dtype), like.device).view(-1, *[1] * (like.ndim - 1))
