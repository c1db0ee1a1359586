"""The forward process q(x_t | x) = N(alpha_t x, sigma_t^2 I) as a value, t -> (alpha_t, sigma_t).

t runs from 0 (clean: alpha 1, sigma 0) to `end` (noise): to T for a table of T steps, to 1 for rectified flow, to sigma_max
for EDM. Schedules compute in float64 and where t is, which is on the CPU: nothing waits for a GPU.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.diffusion.broadcast import per_example


class NoiseSchedule(ABC):
    """An immutable map from t to (alpha_t, sigma_t), whose signal-to-noise ratio falls strictly.

    `start` is the least noisy t that is trained on, `end` the noisiest; `discrete` says that only whole t are trained on;
    `sigma_data`, where it is a number, has the denoiser bring the network's input to unit variance.
    """

    start: float
    end: float
    discrete: bool = False
    sigma_data: float | None = None

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t), each (B,) float64, for t (B,) from 0 to `end`."""

    @abstractmethod
    def time_of(self, ratio: Tensor) -> Tensor:
        """The t, (B,) float64, at which sigma_t / alpha_t is `ratio` (B,)."""

    @abstractmethod
    def told(self, t: Tensor) -> Tensor:
        """What a network is told of t (B,): near 0 to 1000, as networks with sinusoidal embeddings expect it."""

    def ratio(self, t: Tensor) -> Tensor:
        """sigma_t / alpha_t, (B,) float64: 0 where clean, infinite where nothing of the picture is left."""
        alpha, sigma = self(t)
        return sigma / alpha

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2, (B,) float64; infinite at t = 0."""
        return self.ratio(t).pow(-2)

    def log_snr(self, t: Tensor) -> Tensor:
        """Its natural logarithm, (B,) float64."""
        return -2 * self.ratio(t).log()

    def corrupt(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha_t x + sigma_t noise, like x (B, ...), for t (B,)."""
        alpha, sigma = self(t)
        return per_example(alpha, x) * x + per_example(sigma, x) * noise

    def trained(self, t: Tensor) -> Tensor:
        """Any t (B,) brought to the nearest one that is trained on."""
        return (t.round().long() if self.discrete else t).clamp(self.start, self.end)

    def along(self, share: float) -> float:
        """The t that lies a share in (0, 1] of the way from clean to the end."""
        return self.end * share

    def quantile(self, u: Tensor) -> Tensor:
        """The t (B,) below which a share u (B,) in [0, 1) of all t lies."""
        if self.discrete:
            return 1 + (u * self.end).long().clamp_max(int(self.end) - 1)
        return self.start + u * (self.end - self.start)


@dataclass(frozen=True, eq=False)
class VariancePreserving(NoiseSchedule):
    """A table of alpha_t^2 for t = 1 ... T, strictly falling, with sigma_t^2 = 1 - alpha_t^2.

    Between whole t the angle atan(sigma / alpha) is interpolated linearly.

    Args:
        alphas_squared: (T,), float64, the cumulative products "alpha bar" of Ho et al. 2020 (arXiv 2006.11239, eq. 4).
        discrete: train at whole t alone.

    Raises:
        ValueError: not one-dimensional, not within [0, 1], or not falling.
    """

    alphas_squared: Tensor
    discrete: bool = True
    start = 1

    def __post_init__(self) -> None:
        table = self.alphas_squared
        falls = table.ndim == 1 and len(table) > 0 and table[0] < 1 and table[-1] >= 0 and (table.diff() < 0).all()
        if not falls:
            raise ValueError(
                f"a noise schedule's alpha^2 must fall strictly from below 1 to at least 0; got {_shown(table)}"
            )

    @property
    def end(self) -> int:  # type: ignore[override]
        return len(self.alphas_squared)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if t.is_floating_point():
            below = t.floor().clamp(0, self.end - 1).long()
            angle = torch.lerp(self._angles(below), self._angles(below + 1), t.double() - below)
            return (math.pi / 2 - angle).sin(), angle.sin()  # unlike the cosine, exactly 0 at pure noise
        alpha_squared = self._table()[t]
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def time_of(self, ratio: Tensor) -> Tensor:
        angle = ratio.double().atan()
        angles = self._angles(torch.arange(self.end + 1))
        above = torch.searchsorted(angles, angle).clamp(1, self.end)
        return above - (angles[above] - angle) / (angles[above] - angles[above - 1])

    def told(self, t: Tensor) -> Tensor:
        """t - 1, from 0 to T - 1, as published models count."""
        return t - 1

    def _table(self) -> Tensor:
        return torch.cat([self.alphas_squared.new_ones(1), self.alphas_squared])

    def _angles(self, t: Tensor) -> Tensor:
        return self._table()[t].sqrt().acos()


def _shown(table: Tensor) -> str:
    """A table, or the ends of a long one."""
    values = table.flatten().tolist()
    return f"{values}" if len(values) <= 10 else f"{values[:4]} … {values[-4:]}"
