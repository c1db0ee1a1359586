"""The one place where a value per example meets a tensor per pixel."""

from torch import Tensor


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) shaped (B, 1, ..., 1) to multiply with `like` (B, ...), in its dtype and on its device."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))
