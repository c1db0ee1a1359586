"""Adafactor that factors the second moments of convolutions too."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Adafactor(torch.optim.Adafactor):
    """Adafactor (Shazeer and Stern 2018, arXiv 1804.04235), of a kernel as the matrix (out, in * height * width).

    torch's own factors the last two dimensions, which for kernels of 3x3 keeps two thirds of the second moments and for 1x1
    keeps them twice.
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with as_matrices([p for group in self.param_groups for p in group["params"] if p.ndim > 2 and p.grad is not None]):
            super().step()
        return loss


@contextmanager
def as_matrices(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Give parameters and their gradients the shape (first dimension, all others) within the context.

    Where the memory's order does not allow a view, as in `channels_last`, the changed values are copied back.
    """
    kept = [(parameter.data, parameter.grad) for parameter in parameters]
    for parameter, (_, gradient) in zip(parameters, kept, strict=True):
        assert gradient is not None
        parameter.grad = None  # a gradient must have its parameter's shape
        parameter.data = parameter.data.flatten(1)
        parameter.grad = gradient.flatten(1)
    try:
        yield
    finally:
        for parameter, (value, gradient) in zip(parameters, kept, strict=True):
            changed, parameter.grad = parameter.data, None
            if changed.data_ptr() != value.data_ptr():
                value.copy_(changed.view(value.shape))
            parameter.data, parameter.grad = value, gradient
