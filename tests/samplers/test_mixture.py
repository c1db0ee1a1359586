"""For a mixture of Gaussians, which no affine step can make, the samples have its weights and moments."""

import math

import pytest
import torch
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Estimate
from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow
from ldm_train.samplers.ddim import DDIM
from ldm_train.samplers.ddpm import DDPM
from ldm_train.samplers.dpm_solver import DPMSolver
from ldm_train.samplers.heun import Heun
from ldm_train.samplers.spacings import Karras
from ldm_train.samplers.unipc import UniPC
from ldm_train.types import Conditioning

COUNT = 10_000
SHARES = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
MEANS = torch.tensor([[-2.0, 0.0], [1.0, 2.0], [1.5, -1.5]], dtype=torch.float64)
DEVIATIONS = torch.tensor([[0.3, 0.5], [0.4, 0.3], [0.35, 0.25]], dtype=torch.float64)


class Ideal:
    """E[x | x_t]: each component's own, by its share of the density at x_t. Rows are points, channels their coordinates."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, x_t, t, conditioning):
        alpha, sigma = (value[:, None, None] for value in self.schedule(t))
        variance = alpha**2 * DEVIATIONS**2 + sigma**2
        apart = x_t[:, None, :, 0, 0] - alpha * MEANS
        density = SHARES.log() - (apart.square() / variance + variance.log()).sum(-1) / 2
        clean = (density.softmax(1)[..., None] * (MEANS + alpha * DEVIATIONS**2 / variance * apart)).sum(1)
        clean = clean[..., None, None]
        return Estimate(clean, clean, (x_t - alpha[..., None] * clean) / sigma[..., None])


def drawn(count, generator):
    """Points of the mixture, (count, 2)."""
    which = torch.multinomial(SHARES, count, replacement=True, generator=generator)
    return MEANS[which] + DEVIATIONS[which] * torch.randn(count, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("sampler", "schedule", "steps"),
    [
        pytest.param(DDIM(), RectifiedFlow(), 300, id="ddim"),
        pytest.param(DDPM(), EDM(), 300, id="ddpm"),
        pytest.param(Heun(), RectifiedFlow(), 100, id="heun"),
        pytest.param(DPMSolver(), EDM(), 100, id="dpm"),
        pytest.param(DPMSolver(stochastic=True), RectifiedFlow(), 100, id="dpm-stochastic"),
        pytest.param(UniPC(order=2), EDM(), 100, id="unipc2"),
        pytest.param(UniPC(order=3), RectifiedFlow(), 100, id="unipc3"),
    ],
)
def test_the_samples_have_the_weights_and_moments_of_the_mixture(sampler, schedule, steps):
    """To four standard errors, and for the deviations the sum of the squared angles, their error's bound for a Gaussian.

    Two components are apart by almost five times the sum of their deviations: which is which is clear.
    """
    generator = torch.Generator().manual_seed(0)
    spacing = Karras(sigma_max=50.0)
    points = torch.tensor(spacing(schedule, steps), dtype=torch.float64)
    alpha, sigma = (value.item() for value in schedule(points[:1]))
    x_t = alpha * drawn(COUNT, generator) + sigma * torch.randn(COUNT, 2, generator=generator, dtype=torch.float64)
    x = sampler(
        Ideal(schedule),
        x_t[..., None, None] / math.hypot(alpha, sigma),
        Conditioning(),
        steps=steps,
        spacing=spacing,
        generator=generator,
    )[..., 0, 0]
    which = ((x[:, None] - MEANS) / DEVIATIONS).square().sum(-1).argmin(1)
    count = COUNT * SHARES
    shares = torch.bincount(which, minlength=3) / COUNT
    assert ((shares - SHARES).abs() < 4 * (SHARES * (1 - SHARES) / COUNT).sqrt()).all()

    means = torch.stack([x[which == k].mean(0) for k in range(3)])
    deviations = torch.stack([x[which == k].std(0) for k in range(3)])
    bias = torch.atan(schedule.ratio(points)[:, None, None] / DEVIATIONS).diff(dim=0).square().sum(0)
    assert ((means - MEANS).abs() < DEVIATIONS * (4 / count.sqrt()[:, None])).all()
    assert ((deviations / DEVIATIONS - 1).abs() < 4 / (2 * count).sqrt()[:, None] + bias).all()


def test_the_mixture_s_ideal_denoiser_is_the_mean_of_what_could_have_been():
    """E[(x - E[x | x_t]) x_t] = 0: x_t holds nothing about the error."""
    generator, schedule = torch.Generator().manual_seed(1), RectifiedFlow()
    x = drawn(COUNT, generator)[..., None, None]
    t = torch.full((COUNT,), 0.5, dtype=torch.float64)
    x_t = schedule.corrupt(x, torch.randn(x.shape, generator=generator, dtype=torch.float64), t)
    error = (x - Ideal(schedule)(x_t, t, Conditioning()).clean) * x_t
    assert_close(error.mean(0) / (error.std(0) / math.sqrt(COUNT)), torch.zeros(2, 1, 1).double(), rtol=0, atol=4.0)
