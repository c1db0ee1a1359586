"""Prepare images for feature extractors: round to 8 bits, resize to a square, normalize."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def round_to_levels(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) in [-1, 1] as an 8-bit file stores them: whole numbers from 0 to 255, float32."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round()


class ResizedSquare(nn.Module):
    """Resize pixels (B, 3, H, W) in [0, 255] to normalized ones (B, 3, side, side), bicubic with antialiasing.

    Args:
        mean, deviation: per channel, of pixels in [0, 1].
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, side: int, *, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        square = F.interpolate(pixels, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False)
        return (square.clamp(0, 255) / 255 - self.mean) / self.deviation
