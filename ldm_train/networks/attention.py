"""Transformer blocks over the positions of a feature map: self-attention, cross-attention to tokens, feed-forward."""

import torch
from torch import Tensor, nn

from ldm_train.networks.blocks import group_norm, zero_parameters
from ldm_train.networks.cpu_kernels import FastLinear, attend, gated_gelu
from ldm_train.util.kept_values import keep


class Attention(nn.Module):
    """Multi-head attention (arXiv 1706.03762, section 3.2) of (B, N, width) to itself or to a context (B, L, context_width).

    Args:
        head_size: width of a head; must divide `width`.
        context_width: width of the context; None for self-attention.
    """

    def __init__(self, width: int, *, head_size: int, context_width: int | None = None) -> None:
        super().__init__()
        self.head_size = head_size
        self.to_q = FastLinear(width, width, bias=False)
        self.to_kv = FastLinear(context_width or width, 2 * width, bias=False)
        self.to_out = FastLinear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return (B, N, width) for x (B, N, width) and a context (B, L, context_width).

        Args:
            mask: True for the tokens of the context to attend to, (B, L); None for all.
        """
        k, v = (self.to_kv(x) if context is None else self._project_context(context)).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for part in (self.to_q(x), k, v))
        return self.to_out(attend(q, k, v, mask).transpose(1, 2).flatten(2))

    def _project_context(self, context: Tensor) -> Tensor:
        """Return keys and values of a context (B, L, context_width), which are the same in all steps of a draw."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.to_kv(context)
        return keep(self, (context,), lambda: self.to_kv(context))


class GatedFeedForward(nn.Module):
    """value * gelu(gate), GEGLU (Shazeer 2020, arXiv 2002.05202, eq. 6), projected back to the width.

    Args:
        expansion: hidden width over `width`.
    """

    def __init__(self, width: int, *, expansion: int) -> None:
        super().__init__()
        self.to_hidden = FastLinear(width, 2 * expansion * width)
        self.to_out = FastLinear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out(gated_gelu(self.to_hidden(x)))


class SpatialTransformer(nn.Module):
    """Self-attention, cross-attention if there is a context, and feed-forward, added to the map (arXiv 2112.10752, E.2.1).

    Published models project in and out by 1x1 convolutions or by linear layers, which compute the same. Here it is always a
    linear layer, whose weight (out, in) is a convolution's weight (out, in, 1, 1) without the last two dimensions.

    Args:
        width: channels of the map.
        head_size: width of an attention head.
        context_width: D of the tokens; None for no cross-attention.
        only_cross: attend to the context in the place of self-attention, too.
        expansion: hidden width of the feed-forward layer over `width`.
    """

    def __init__(
        self, width: int, *, head_size: int, context_width: int | None, only_cross: bool = False, expansion: int = 4
    ) -> None:
        super().__init__()
        self.only_cross = only_cross
        self.norm = group_norm(width, eps=1e-6)
        self.proj_in = FastLinear(width, width)
        self.norm_self = nn.LayerNorm(width)
        self.self_attention = Attention(width, head_size=head_size, context_width=context_width if only_cross else None)
        self.cross_attention = None
        if context_width is not None:
            self.norm_cross = nn.LayerNorm(width)
            self.cross_attention = Attention(width, head_size=head_size, context_width=context_width)
        self.norm_feed, self.feed_forward = nn.LayerNorm(width), GatedFeedForward(width, expansion=expansion)
        self.proj_out = zero_parameters(FastLinear(width, width))

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        h = h + self.self_attention(self.norm_self(h), *((context, mask) if self.only_cross else ()))
        if self.cross_attention is not None:
            assert context is not None
            h = h + self.cross_attention(self.norm_cross(h), context, mask)
        h = h + self.feed_forward(self.norm_feed(h))
        return x + self.proj_out(h).transpose(1, 2).unflatten(2, x.shape[2:])
