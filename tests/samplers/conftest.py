"""Gaussian data, whose ideal denoiser and whose way back from noise are known in closed form."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ldm_train.diffusion.denoiser import Estimate
from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.types import Conditioning


def per_row(values):
    return values.view(-1, 1, 1, 1)


def t_of(schedule, network_time):
    """Return the t at which a schedule has this network time."""
    if isinstance(schedule, EDM):
        return (network_time.double() / 250).exp()
    if isinstance(schedule, RectifiedFlow):
        sigma = network_time.double() / 1000
        return schedule.t_at_ratio(sigma / (1 - sigma))
    return network_time + 1


@dataclass(frozen=True)
class Data:
    """N(mean, diag(deviation^2)), each (C, 1, 1): channels of one pixel."""

    mean: Tensor
    deviation: Tensor

    def estimate(self, x_t, alpha, sigma):
        """E[x | x_t], and the noise that goes with it."""
        share = alpha * self.deviation**2 / (alpha**2 * self.deviation**2 + sigma**2)
        clean = self.mean + share * (x_t - alpha * self.mean)
        return Estimate(clean, clean, (x_t - alpha * clean) / sigma)

    def marginal(self, schedule, t):
        """The mean and deviation of x_t, (..., C, 1, 1), for t (...)."""
        alpha, sigma = (value[..., None, None, None] for value in schedule(t))
        return alpha * self.mean, (alpha**2 * self.deviation**2 + sigma**2).sqrt()

    def angles(self, schedule, points):
        """atan(sigma / (alpha deviation)) at points t, (N, C, 1, 1): in these the samplers' errors have closed forms."""
        return torch.atan(schedule.ratio(torch.tensor(points, dtype=torch.float64))[:, None, None, None] / self.deviation)

    def denoiser(self, schedule):
        """The ideal one."""
        return Ideal(self, schedule)

    def network(self, schedule, prediction):
        """Return the ideal denoiser's network, which sees only its inputs."""
        unit = schedule.sigma_data or 1.0

        def network(x_t, network_time, conditioning):
            alpha, sigma = map(per_row, schedule(t_of(schedule, network_time)))
            norm = 1.0 if schedule.sigma_data is None else torch.hypot(unit * alpha, sigma)
            estimate = self.estimate(x_t * norm, alpha, sigma)
            return prediction.target(estimate.clean / unit, estimate.noise, unit * alpha / norm, sigma / norm)

        return network

    def push(self, sampler, denoiser, *, steps, spacing, stochastic=False):
        """The exact means and deviations after each step, (N, C, 1, 1), when x at the first point has its own.

        With an ideal denoiser a step is affine in x_t and in the noise that it adds, none of which mixes coordinates. Row 0
        gets the mean of x and no noise; each further row one deviation of x, or of one step's noise: its distance from row
        0 is what that contributes. A sampler that claims to be deterministic gets no noise at all.
        """
        sources = steps + 1 if stochastic else 1
        rows = torch.eye(sources + 1, dtype=torch.float64)[:, 1:, None, None, None].expand(-1, -1, *self.mean.shape)
        start = torch.tensor(spacing(denoiser.schedule, steps)[0], dtype=torch.float64)
        mean, deviation = self.marginal(denoiser.schedule, start)
        scale = math.hypot(*(value.item() for value in denoiser.schedule(start)))
        reached = []
        sampler(
            denoiser,
            (mean + deviation * rows[:, 0]) / scale,
            Conditioning(),
            steps=steps,
            spacing=spacing,
            generator=(lambda number: rows[:, number + 1]) if stochastic else None,
            callback=lambda number, x_s, estimate: reached.append(x_s),
        )
        reached = torch.stack(reached)
        return reached[:, 0], (reached[:, 1:] - reached[:, :1]).square().sum(1).sqrt()


@dataclass(frozen=True)
class Ideal:
    """What the samplers call, without a network."""

    data: Data
    schedule: NoiseSchedule

    def __call__(self, x_t, t, conditioning):
        return self.data.estimate(x_t, *map(per_row, self.schedule(t)))


@pytest.fixture(scope="session")
def data():
    """Four coordinates: narrow and wide, off the centre and on it."""
    values = torch.tensor([[1.5, -0.5, 0.0, 3.0], [0.5, 2.0, 1.0, 0.1]], dtype=torch.float64)
    return Data(*values.view(2, 4, 1, 1))
