"""Floating-point operations: those of a step, counted as it is computed, and how many a second a device is good for."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ldm_train.networks.cpu_kernels import ONE_DNN, is_supported, multiply_transposed

SECONDS = 0.2  # that measuring a peak takes
SIDE = {"cpu": 1024}  # of the square matrices for that; of another device's:
LARGE = 8192


def _linear(x: Tensor, weight: Tensor, *rest: object, **more: object) -> int:
    return 2 * x.numel() * weight.shape[0]


def _attention(q: Tensor, k: Tensor, v: Tensor, *rest: object, **more: object) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward(g: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: object, **more: object) -> int:
    return sdpa_backward_flop_count(g.shape, q.shape, k.shape, v.shape)


def formulas() -> dict[object, Callable[..., int]]:
    """PyTorch's own, and those of a CPU's operations that it has none for."""
    found: dict[object, Callable[..., int]] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    if ONE_DNN:
        found[torch.ops.mkldnn._linear_pointwise] = _linear
    return found | flop_registry


class CountFlops(TorchDispatchMode):
    """Adds up those of matrix products, convolutions and attention while it is entered, in forward and backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._formulas = formulas()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            with suppress(Exception):  # a count is not worth a step
                self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


@cache
def peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Return the operations a second in the best of several products of large matrices, of one at least."""
    side = SIDE.get(device.type, LARGE)
    a, b = (torch.arange(side * side, device=device).remainder_(k).div(k).to(dtype).view(side, side) for k in (251, 241))
    multiply = multiply_transposed if is_supported(a, b) else F.linear
    best, began = float("inf"), time.perf_counter()
    with torch.no_grad():
        while best == float("inf") or time.perf_counter() < began + SECONDS:  # a busy machine may give this process no time
            synchronize(device)
            start = time.perf_counter()
            multiply(a, b)
            synchronize(device)
            best = min(best, time.perf_counter() - start)
    return 2 * prod((side,) * 3) / best


def synchronize(device: torch.device) -> None:
    """Wait for all that a GPU was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
