"""The one place where a value per example meets a tensor per pixel, and where the CPU's values reach a device."""

import torch
from torch import Tensor


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device; those of the CPU travel to a GPU without stopping either."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) shaped (B, 1, ..., 1) to multiply with `like` (B, ...), in its dtype and on its device."""
    return on_device(values.to(like.dtype), like.device).view(-1, *[1] * (like.ndim - 1))
