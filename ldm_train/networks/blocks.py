"""Convolutional blocks of the U-Net."""

import math
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

ZeroableLayer = TypeVar("ZeroableLayer", nn.Conv2d, nn.Linear)


def group_norm(channels: int, *, eps: float = 1e-5) -> nn.GroupNorm:
    """Return a group norm of 32 groups, or of as many as divide the channels and leave two in each."""
    return nn.GroupNorm(math.gcd(32, channels if channels > 32 else channels // 2), channels, eps=eps)


def zero_parameters(layer: ZeroableLayer) -> ZeroableLayer:
    """Set the layer's weights and bias to zero, so that its branch adds nothing at first, and return it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, conditioned on the embedding in between.

    Args:
        in_channels, out_channels: if they differ, the shortcut is a 1x1 convolution.
        embedding_width: D of the time (and vector) embedding.
        scale_shift: let the embedding scale and shift the second norm (Nichol and Dhariwal 2021, arXiv 2102.09672, section
            3.1); False adds it before that norm (Ho et al. 2020, arXiv 2006.11239, appendix B).
        dropout: probability, before the second convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, embedding_width: int, scale_shift: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.norm_1 = group_norm(in_channels)
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embedding = nn.Linear(embedding_width, 2 * out_channels if scale_shift else out_channels)
        self.norm_2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero_parameters(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return (B, C', H, W) for x (B, C, H, W) and the embedding (B, D), to which SiLU was applied."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        modulation = self.embedding(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            h = self.norm_2(h) * (1 + scale) + shift
        else:
            h = self.norm_2(h + modulation)
        return self.shortcut(x) + self.conv_2(self.dropout(F.silu(h)))


class Downsample(nn.Conv2d):
    """Halve the sides by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    """Double the sides by nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))
