"""Embeddings of numbers."""

import math

import torch
from torch import Tensor, nn


def sinusoidal(t: Tensor, width: int, *, max_period: float = 10_000.0) -> Tensor:
    """cos and sin of t at `width` / 2 frequencies falling from 1 to 1 / max_period, (B, width), for t (B,).

    Vaswani et al. 2017 (arXiv 1706.03762, section 3.5), cosines first, as published diffusion models have it.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Timesteps (B,) to (B, width): a sinusoidal embedding through two layers."""

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.linear_1 = nn.Linear(frequencies, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        embedding = sinusoidal(t, self.frequencies).to(self.linear_1.weight.dtype)
        return self.linear_2(nn.functional.silu(self.linear_1(embedding)))
