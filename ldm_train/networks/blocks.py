"""Convolutional blocks of the U-Net."""

import math
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def group_norm(channels: int, *, eps: float = 1e-5) -> nn.GroupNorm:
    """32 groups, or as many as divide the channels and leave two in each."""
    return nn.GroupNorm(math.gcd(32, channels if channels > 32 else channels // 2), channels, eps=eps)


def zero(layer: Layer) -> Layer:
    """The layer with weights and bias at zero, so that what it adds starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, told the embedding in between.

    Args:
        in_channels, out_channels: a 1x1 convolution on the shortcut where they differ.
        embedding_width: D of the time (and vector) embedding.
        scale_shift: the embedding scales and shifts the second norm (Nichol and Dhariwal 2021, arXiv 2102.09672, section
            3.1); without, it is added before that norm (Ho et al. 2020, arXiv 2006.11239, appendix B).
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
        self.conv_2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, H, W) and the activated embedding (B, D)."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        told = self.embedding(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = self.norm_2(h) * (1 + scale) + shift
        else:
            h = self.norm_2(h + told)
        return self.shortcut(x) + self.conv_2(self.dropout(F.silu(h)))


class Downsample(nn.Conv2d):
    """Half the side, by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    """Twice the side, by nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))
