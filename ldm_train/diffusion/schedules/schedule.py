"""The forward process q(x_t | x) = N(alpha_t x, sigma_t^2 I) as a value: t -> (alpha_t, sigma_t).

t is float64 everywhere. It runs from 0 (clean: alpha = 1, sigma = 0) to the schedule's `end` (noise): to T for a table of T
steps, to 1 for rectified flow, to sigma_max for EDM. Schedules compute in float64 on the device of t, which is the CPU, so
that no step waits for a GPU.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.diffusion.broadcast import broadcast_like


class NoiseSchedule(ABC):
    """An immutable map from t to (alpha_t, sigma_t). The signal-to-noise ratio falls strictly with t.

    Attributes:
        start, end: the least and the most noisy t that training draws.
        discrete: training draws only whole t.
        sigma_data: standard deviation of the data, if the denoiser shall scale the network's input to unit variance.
    """

    start: float
    end: float
    discrete: bool = False
    sigma_data: float | None = None

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha_t, sigma_t), each (B,) float64, for t (B,) from 0 to `end`."""

    @abstractmethod
    def t_at_ratio(self, ratio: Tensor) -> Tensor:
        """Return the t (B,) float64 at which sigma_t / alpha_t is `ratio` (B,): the inverse of `ratio`."""

    @abstractmethod
    def network_time(self, t: Tensor) -> Tensor:
        """Return the number (B,) that the network is conditioned on at t (B,).

        It lies between about 0 and 1000, the range for which sinusoidal embeddings are made.
        """

    def ratio(self, t: Tensor) -> Tensor:
        """Return sigma_t / alpha_t, (B,) float64, for t (B,): 0 at t = 0, infinity at pure noise."""
        alpha, sigma = self(t)
        return sigma / alpha

    def snr(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio alpha_t^2 / sigma_t^2, (B,) float64, for t (B,): infinity at t = 0."""
        return self.ratio(t).pow(-2)

    def log_snr(self, t: Tensor) -> Tensor:
        """Return ln(alpha_t^2 / sigma_t^2), (B,) float64, for t (B,)."""
        return -2 * self.ratio(t).log()

    def corrupt(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t = alpha_t x + sigma_t noise, like x (B, ...), for t (B,)."""
        alpha, sigma = self(t)
        return broadcast_like(alpha, x) * x + broadcast_like(sigma, x) * noise

    def nearest_trained(self, t: Tensor) -> Tensor:
        """Return the t nearest to t (B,) that training draws: within [start, end], whole if the schedule is discrete."""
        return (t.round() if self.discrete else t).clamp(self.start, self.end)

    def t_at_share(self, share: float) -> float:
        """Return the t at a share in (0, 1] of the way from clean to `end`, where evenly spaced sampling steps lie."""
        return self.end * share

    def quantile(self, u: Tensor) -> Tensor:
        """Return the t (B,) below which a share u (B,) in [0, 1) of uniformly drawn training steps lies."""
        if self.discrete:
            return 1 + (u * self.end).floor().clamp_max(self.end - 1)
        return self.start + u * (self.end - self.start)


@dataclass(frozen=True, eq=False)
class VariancePreserving(NoiseSchedule):
    """A table of alpha_t^2 for t = 1 ... T, strictly falling, with sigma_t^2 = 1 - alpha_t^2.

    Between whole t the angle atan(sigma / alpha) is interpolated linearly.

    Args:
        alphas_squared: (T,), float64, the cumulative products "alpha bar" of Ho et al. 2020 (arXiv 2006.11239, eq. 4).
        discrete: train only at whole t.

    Raises:
        ValueError: the table is not one-dimensional, leaves [0, 1], or does not fall strictly.
    """

    alphas_squared: Tensor
    discrete: bool = True
    start = 1

    def __post_init__(self) -> None:
        table = self.alphas_squared
        falls = table.ndim == 1 and len(table) > 0 and table[0] < 1 and table[-1] >= 0 and (table.diff() < 0).all()
        if not falls:
            raise ValueError(
                f"a noise schedule's alpha^2 must fall strictly from below 1 to at least 0; got {_format_table(table)}"
            )

    @property
    def end(self) -> int:  # type: ignore[override]
        return len(self.alphas_squared)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.double()
        nearest = t.round().long()
        alpha_squared, whole = self._table()[nearest], nearest == t
        alpha, sigma = alpha_squared.sqrt(), (1 - alpha_squared).sqrt()
        below = t.floor().clamp(0, self.end - 1).long()
        angle = torch.lerp(self._angles(below), self._angles(below + 1), t - below)
        # Whole t keep the table's values, from which a sine of an interpolated angle would differ in the last bits. The
        # cosine is written as a sine because that is exactly 0 at pure noise.
        return torch.where(whole, alpha, (math.pi / 2 - angle).sin()), torch.where(whole, sigma, angle.sin())

    def t_at_ratio(self, ratio: Tensor) -> Tensor:
        angle = ratio.double().atan()
        angles = self._angles(torch.arange(self.end + 1))
        above = torch.searchsorted(angles, angle).clamp(1, self.end)
        return above - (angles[above] - angle) / (angles[above] - angles[above - 1])

    def network_time(self, t: Tensor) -> Tensor:
        """Return t - 1, from 0 to T - 1, as published models count their steps."""
        return t - 1

    def _table(self) -> Tensor:
        return torch.cat([self.alphas_squared.new_ones(1), self.alphas_squared])

    def _angles(self, t: Tensor) -> Tensor:
        return self._table()[t].sqrt().acos()


def _format_table(table: Tensor) -> str:
    """Return the numbers of a table; only its ends if it is long."""
    values = table.flatten().tolist()
    return f"{values}" if len(values) <= 10 else f"{values[:4]} … {values[-4:]}"
