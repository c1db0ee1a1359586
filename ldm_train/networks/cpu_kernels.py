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

MANY_SCORES = 2**18  # scores of one head from which the kernel here is faster on a CPU without AVX-512
SCORES_AT_ONCE = 2**19  # 2 MiB: fewer spend more time on starting operations, more do not stay in the cache
MIN_ROWS = 16
AVX_512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
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
        return g_x, multiply_rows(g2, x2) if needs[1] else None, g2.sum(0) if needs[2] else None


def multiply_rows(g: Tensor, x: Tensor) -> Tensor:
    """Return g^T x, (N, K), the weight's gradient for g (M, N) and x (M, K), by the fastest product for these shapes."""
    if AVX_512:  # where MKL sums over many rows faster than oneDNN
        return g.t() @ x if g.shape[1] <= x.shape[1] else (x.t() @ g).t()
    # The gradient should have the weight's strides, but multiplying many rows of narrow inputs that way is slow.
    direct = g.shape[1] <= x.shape[1] or x.shape[1] > 128
    return multiply_transposed(g.t(), x.t()) if direct else multiply_transposed(x.t(), g.t()).t()


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

    Scores are computed to base 2, which is fastest, and so many at a time that they stay in the cache. Products with a
    narrow result are written transposed, which is several times as fast. With one more column, of ones, a product also sums
    the scores of a row, or subtracts a number from them, which would be another pass over them.
    """

    @staticmethod
    def forward(ctx: AutogradContext, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = q.shape
        q, k, v = (part.flatten(0, 1).contiguous() for part in (q, k, v))
        scaled, v_t = q * (math.log2(math.e) / math.sqrt(q.shape[-1])), append_ones(v).mT.contiguous()
        out, log_sum = q.new_empty(len(q), q.shape[2] + 1, q.shape[1]), q.new_zeros(*q.shape[:2], 1)
        # By Cauchy-Schwarz no score exceeds this product; below 64, 2^score neither overflows nor vanishes.
        bounded = bool(scaled.norm(dim=-1).amax() * k.norm(dim=-1).amax() < 64)
        times, groups = group_scores(q, k)
        for i, rows in groups:
            p = times(scaled[i, rows], k[i])
            if not bounded:
                torch.amax(p, dim=-1, keepdim=True, out=log_sum[i, rows])
                p.sub_(log_sum[i, rows])
            out[i, :, rows] = times(v_t[i], p.exp2_())
        out, total = out[:, :-1], out[:, -1:]
        log_sum += total.mT.log2()
        # A row holds all heads.
        out = (out / total).view(*shape[:2], shape[3], shape[2]).permute(0, 3, 1, 2).contiguous().transpose(1, 2)
        ctx.save_for_backward(q, k, v, out, log_sum)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, log_sum = ctx.saved_tensors
        delta, g = (g * out).sum(dim=-1, keepdim=True).flatten(0, 1), g.flatten(0, 1).contiguous()
        scaled = q * (math.log2(math.e) / math.sqrt(q.shape[-1]))
        q_t, k_t, g_t = (part.mT.contiguous() for part in (scaled, k, g))
        g_q, g_k, g_v = torch.empty_like(q_t), torch.zeros_like(k_t), torch.zeros_like(k_t)
        scaled, g = torch.cat([scaled, -log_sum], dim=-1), torch.cat([g, -delta], dim=-1)
        k, v = append_ones(k), append_ones(v)
        times, groups = group_scores(q, k)
        for i, rows in groups:
            p = times(scaled[i, rows], k[i]).exp2_()
            g_v[i] += times(g_t[i, :, rows], p.mT)
            p.mul_(times(g[i, rows], v[i]))
            g_q[i, :, rows] = times(k_t[i], p)
            g_k[i] += times(q_t[i, :, rows], p.mT)
        parts = g_q.mul_(1 / math.sqrt(q.shape[-1])), g_k.mul_(math.log(2)), g_v
        g_q, g_k, g_v = (part.mT.unflatten(0, out.shape[:2]) for part in parts)
        return g_q, g_k, g_v


def append_ones(rows: Tensor) -> Tensor:
    """Return (G, L, d + 1) for (G, L, d), with a last column of ones."""
    return torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], dim=-1)


def group_scores(q: Tensor, k: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], list[tuple[slice, slice]]]:
    """Return a function that multiplies a b^T of a group, (G, M, K) and (G, N, K), and the groups: heads and rows."""
    count, length = q.shape[1], k.shape[1]
    heads = max(1, SCORES_AT_ONCE // (count * length))
    rows = count if heads > 1 else max(MIN_ROWS, SCORES_AT_ONCE // length)
    groups = [(slice(i, i + heads), slice(j, j + rows)) for i in range(0, len(q), heads) for j in range(0, count, rows)]
    if heads == 1:
        return lambda a, b: multiply_transposed(a[0], b[0])[None], groups
    return lambda a, b: torch.bmm(a, b.mT), groups


def is_faster(q: Tensor, k: Tensor) -> bool:
    """Return whether attention of q (B, H, N, d) to k (B, H, L, d) is faster here than in PyTorch.

    PyTorch is slow where heads are narrow. On a CPU without AVX-512 the backward pass gains for many scores, too.
    """
    narrow = q.shape[3] <= 8 and q.shape[2] >= 256
    if AVX_512:
        return narrow
    return torch.is_grad_enabled() and (narrow or q.shape[2] * k.shape[2] >= MANY_SCORES)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v, (B, H, N, d), for q (B, H, N, d), k and v (B, H, L, d).

    Args:
        mask: True for the keys to attend to, (B, L).
    """
    # Sizes come last: what is compiled compares none, or each picture size would be compiled anew.
    if mask is None and is_supported(q, k, v) and is_faster(q, k):
        return _Attention.apply(q, k, v)
    if torch.is_autocast_enabled("cpu") and q.device.type == "cpu" and not torch.compiler.is_compiling():
        # In bfloat16 the backward pass of small attentions is ten times slower.
        with torch.autocast("cpu", enabled=False):
            return attend(q.float(), k.float(), v.float(), mask).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None])
