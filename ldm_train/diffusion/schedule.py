"""The forward process q(x_t | x) = N(alpha_t x, sigma_t^2 I): noise schedules as values, t -> (alpha_t, sigma_t).

Here t is an integer from 0 (clean: alpha 1, sigma 0) to T (noise), and all schedules preserve the variance:
alpha_t^2 + sigma_t^2 = 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.diffusion.broadcast import per_example


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A table of alpha_t^2 for t = 1 ... T, strictly falling; immutable.

    Args:
        alphas_squared: (T,), float64, the cumulative products "alpha bar" of Ho et al. 2020 (arXiv 2006.11239, eq. 4).

    Raises:
        ValueError: not one-dimensional, not within [0, 1], or not falling.
    """

    alphas_squared: Tensor

    def __post_init__(self) -> None:
        table = self.alphas_squared
        falls = table.ndim == 1 and len(table) > 0 and table[0] < 1 and table[-1] >= 0 and (table.diff() < 0).all()
        if not falls:
            raise ValueError(f"a noise schedule's alpha^2 must fall strictly from below 1 to at least 0; got {table}")

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.alphas_squared)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t), each (B,) float64, for integer t (B,) from 0 to T."""
        clean = self.alphas_squared.new_ones(1)
        alpha_squared = torch.cat([clean, self.alphas_squared]).to(t.device)[t]
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2, (B,) float64; infinite at t = 0."""
        alpha, sigma = self(t)
        return alpha.square() / sigma.square()

    def corrupt(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha_t x + sigma_t noise, like x (B, ...), for t (B,)."""
        alpha, sigma = self(t)
        return per_example(alpha, x) * x + per_example(sigma, x) * noise


def from_betas(betas: Tensor) -> NoiseSchedule:
    """alpha_t^2 = prod_{s <= t} (1 - beta_s), for betas (T,) (arXiv 2006.11239, eq. 4)."""
    return NoiseSchedule(torch.cumprod(1 - betas.double(), 0))


def linear(*, num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    """Betas rising linearly: DDPM's schedule (Ho et al. 2020, arXiv 2006.11239, section 4)."""
    return from_betas(torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64))


def scaled_linear(*, num_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> NoiseSchedule:
    """Square roots of the betas rising linearly: Stable Diffusion's schedule (Rombach et al. 2022, arXiv 2112.10752)."""
    return from_betas(torch.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_steps, dtype=torch.float64).square())


def cosine(*, num_steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    """alpha_t = cos((t/T + offset) / (1 + offset) pi/2), betas clipped (Nichol, Dhariwal 2021, arXiv 2102.09672, eq. 17)."""
    t = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    table = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    return from_betas((1 - table[1:] / table[:-1]).clamp_max(max_beta))
