"""Faster linear layers, attention and gated layers in float32 on a CPU, which compute the same functions as PyTorch's.

PyTorch multiplies float32 matrices with MKL, which leaves half of many CPUs' speed unused, and the backward pass of its
attention multiplies thin matrices. This file multiplies with oneDNN, which PyTorch ships for convolutions and compiled code.
On a GPU, in other dtypes, under autocast and in code that is compiled, PyTorch's functions are called.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MANY_SCORES = 2**18  # scores of one head from which the kernel here is faster
ONE_DNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class AutogradContext(Protocol):
    """What autograd passes from forward to backward."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    save_for_backward: Callable[..., None]


def is_supported(*tensors: Tensor) -> bool:
    """Return whether these tensors are float32 on a CPU, outside autocast and compilation."""
    if not ONE_DNN or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def multiply_transposed(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a b^T + bias, (..., M, N), for a (..., M, K) and b (N, K)."""
    # oneDNN is a hundred times slower on rows with gaps between them.
    a, b = (part if part.is_contiguous() or part.mT.is_contiguous() else part.contiguous() for part in (a, b))
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: AutogradContext, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply_transposed(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), g2 = ctx.saved_tensors, g.flatten(0, -2)
        x2, needs = x.flatten(0, -2), ctx.needs_input_grad
        g_x = multiply_transposed(g2, weight.t()).view(x.shape) if needs[0] else None
        # The gradient should have the weight's strides, but multiplying many rows of narrow inputs that way is slow.
        direct = g2.shape[1] <= x2.shape[1] or x2.shape[1] > 128
        g_weight = None
        if needs[1]:
            g_weight = multiply_transposed(g2.t(), x2.t()) if direct else multiply_transposed(x2.t(), g2.t()).t()
        return g_x, g_weight, g2.sum(0) if needs[2] else None


class FastLinear(nn.Linear):
    """nn.Linear, computed by oneDNN on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim > 1 and is_supported(x, self.weight):
            return _Linear.apply(x, self.weight, self.bias)
        return super().forward(x)


class _GatedGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: AutogradContext, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(hidden)
        value, gate = hidden.chunk(2, dim=-1)
        return F.gelu(gate).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, g: Tensor) -> Tensor:
        (hidden,) = ctx.saved_tensors
        (value, gate), g_hidden = hidden.chunk(2, dim=-1), torch.empty_like(hidden)
        g_value, g_gate = g_hidden.chunk(2, dim=-1)
        torch.mul(g, F.gelu(gate), out=g_value)
        torch.ops.aten.gelu_backward.grad_input(g * value, gate, grad_input=g_gate)
        return g_hidden


def gated_gelu(hidden: Tensor) -> Tensor:
    """Return value * gelu(gate) for (..., 2 D), value first. Only the input is kept for the backward pass."""
    if is_supported(hidden):
        return _GatedGELU.apply(hidden)
    value, gate = hidden.chunk(2, dim=-1)
    return value * F.gelu(gate)


class _Attention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v of (B, H, N, d), (B, H, L, d), (B, H, L, d); keeps no scores for the backward pass.

    Scores are computed for a few heads at a time, so that they stay in the cache, and to base 2, which is fastest. Products
    with a narrow result are written transposed, which is several times as fast.
    """

    @staticmethod
    def forward(ctx: AutogradContext, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = q.shape
        q, k, v = (part.flatten(0, 1).contiguous() for part in (q, k, v))
        scaled, v_t = q * (math.log2(math.e) / math.sqrt(q.shape[-1])), v.mT.contiguous()
        out, log_sum = torch.empty_like(q.mT.contiguous()), q.new_empty(*q.shape[:2], 1)
        # By Cauchy-Schwarz no score exceeds this product; below 64, 2^score neither overflows nor vanishes.
        bounded = bool(scaled.norm(dim=-1).amax() * k.norm(dim=-1).amax() < 64)
        times, groups = group_heads(q, k)
        for i in groups:
            p = times(scaled[i], k[i])
            top = torch.zeros(()) if bounded else p.amax(dim=-1, keepdim=True)
            total = (p if bounded else p.sub_(top)).exp2_().sum(dim=-1, keepdim=True)
            torch.div(times(v_t[i], p), total.mT, out=out[i])
            torch.add(total.log2_(), top, out=log_sum[i])
        out = (
            out.view(*shape[:2], shape[3], shape[2]).permute(0, 3, 1, 2).contiguous().transpose(1, 2)
        )  # a row holds all heads
        ctx.save_for_backward(q, k, v, out, log_sum)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, log_sum = ctx.saved_tensors
        delta, g = (g * out).sum(dim=-1, keepdim=True).flatten(0, 1), g.flatten(0, 1).contiguous()
        scaled = q * (math.log2(math.e) / math.sqrt(q.shape[-1]))
        q_t, k_t, g_t = (part.mT.contiguous() for part in (scaled, k, g))
        g_q, g_k, g_v = (torch.empty_like(part) for part in (q_t, k_t, k_t))
        times, groups = group_heads(q, k)
        for i in groups:
            p = times(scaled[i], k[i]).sub_(log_sum[i]).exp2_()
            g_v[i] = times(g_t[i], p.mT)
            p.mul_(times(g[i], v[i]).sub_(delta[i]))
            torch.mul(times(k_t[i], p), 1 / math.sqrt(q.shape[-1]), out=g_q[i])
            torch.mul(times(q_t[i], p.mT), math.log(2), out=g_k[i])
        return g_q.mT.unflatten(0, out.shape[:2]), g_k.mT.unflatten(0, out.shape[:2]), g_v.mT.unflatten(0, out.shape[:2])


def group_heads(q: Tensor, k: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], list[slice]]:
    """Return a function that multiplies a b^T of a group of heads, (G, M, K) and (G, N, K), and the groups."""
    size = 1 if q.shape[1] * k.shape[1] >= MANY_SCORES else 8
    groups = [slice(start, start + size) for start in range(0, len(q), size)]
    if size == 1:
        return lambda a, b: multiply_transposed(a[0], b[0])[None], groups
    return lambda a, b: torch.bmm(a, b.mT), groups


def is_faster(q: Tensor, k: Tensor) -> bool:
    """Return whether attention of q (B, H, N, d) to k (B, H, L, d) has many scores or narrow heads, which gain here."""
    return q.shape[2] * k.shape[2] >= MANY_SCORES or (q.shape[3] <= 8 and q.shape[2] >= 256)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v, (B, H, N, d), for q (B, H, N, d), k and v (B, H, L, d).

    Args:
        mask: True for the keys to attend to, (B, L).
    """
    # Sizes come last: what is compiled compares none, or each picture size would be compiled anew.
    if mask is None and torch.is_grad_enabled() and is_supported(q, k, v) and is_faster(q, k):
        return _Attention.apply(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None])
