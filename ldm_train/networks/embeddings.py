"""Embeddings of timesteps."""

import math

import torch
from torch import Tensor, nn

MAX_PERIOD = 10_000.0


def embed_sinusoidal(t: Tensor, width: int) -> Tensor:
    """Return cos and sin of t (B,) at `width` / 2 frequencies that fall from 1 to 1 / MAX_PERIOD, (B, width) float32.

    Vaswani et al. 2017 (arXiv 1706.03762, section 3.5), with the cosines first, as in published diffusion models.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Embed timesteps (B,) as (B, width): a sinusoidal embedding through two layers."""

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.linear_1 = nn.Linear(frequencies, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        embedding = embed_sinusoidal(t, self.frequencies).to(self.linear_1.weight.dtype)
        return self.linear_2(nn.functional.silu(self.linear_1(embedding)))
