"""Each sampler converges to the exact solution as fast as its paper says."""

import pytest
import torch
from torch.testing import assert_close

from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine
from ldm_train.samplers.ddim import DDIM
from ldm_train.samplers.ddpm import DDPM
from ldm_train.samplers.dpm_solver import DPMSolver
from ldm_train.samplers.euler import Euler
from ldm_train.samplers.euler_ancestral import EulerAncestral
from ldm_train.samplers.heun import Heun
from ldm_train.samplers.spacings import Karras, Listed
from ldm_train.samplers.unipc import UniPC

SCHEDULES = pytest.mark.parametrize(
    "schedule", [cosine(discrete=False), RectifiedFlow(), EDM()], ids=["cosine", "flow", "edm"]
)


def errors(data, sampler, schedule, steps, *, stochastic=False):
    """Relative errors of the deviation, (C,), after steps of even width in log-SNR from sigma / alpha = 10 to 0.1.

    The further step to clean, where the log-SNR is infinite, is left out: no theory holds for it. The deviation is that of
    the exact marginal, as the exact solution of the probability-flow ODE, x_s - mean_s = v_s / v_t (x_t - mean_t), has it
    at every point.
    """
    points = schedule.t_at_ratio(torch.logspace(1, -1, steps + 1, dtype=torch.float64))
    spacing = Listed(timesteps=points.tolist())
    _, deviations = data.push(sampler, data.denoiser(schedule), steps=steps + 1, spacing=spacing, stochastic=stochastic)
    return (deviations[-2] / data.marginal(schedule, points[-1])[1] - 1).abs().flatten()


def order(data, sampler, schedule, **kwargs):
    """By which power of the step width the largest error falls."""
    coarse, fine = (errors(data, sampler, schedule, steps, **kwargs).max() for steps in (64, 128))
    return (coarse / fine).log2().item()


@SCHEDULES
@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        pytest.param(DDIM(), 1, id="ddim"),
        pytest.param(Euler(), 1, id="euler"),
        pytest.param(Heun(), 2, id="heun"),
        pytest.param(Heun(over_ratio=True), 2, id="heun-ratio"),
        pytest.param(DPMSolver(), 2, id="dpm"),
        # The corrector raises a predictor's order by one (arXiv 2302.04867, theorem 3.1).
        pytest.param(UniPC(order=1), 2, id="unipc1"),
        pytest.param(UniPC(order=2), 3, id="unipc2"),
        pytest.param(UniPC(order=3), 4, id="unipc3"),
    ],
)
def test_halving_the_steps_divides_the_error_by_2_to_the_order(data, sampler, expected, schedule):
    assert abs(order(data, sampler, schedule) - expected) < 0.25


@SCHEDULES
@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        pytest.param(DDPM(), 1, id="ddpm"),
        pytest.param(DDIM(eta=1.0), 1, id="ddim"),
        pytest.param(EulerAncestral(), 1, id="ancestral"),
        pytest.param(DPMSolver(stochastic=True), 2, id="dpm"),
    ],
)
def test_stochastic_methods_have_their_order_in_the_variance(data, sampler, expected, schedule):
    assert abs(order(data, sampler, schedule, stochastic=True) - expected) < 0.25


@pytest.mark.parametrize(
    "sampler",
    [DDIM(), Euler(), Heun(), Heun(over_ratio=True), DPMSolver(), UniPC(order=1), UniPC(order=2), UniPC(order=3)],
    ids=["ddim", "euler", "heun", "heun-ratio", "dpm", "unipc1", "unipc2", "unipc3"],
)
def test_every_point_of_the_way_is_on_the_exact_solution(data, sampler):
    """x_s - mean_s = v_s / v_t (x_t - mean_t), to the sum of half of each squared angle, the bound of the first order."""
    schedule, spacing, steps = EDM(), Karras(), 200
    means, deviations = data.push(sampler, data.denoiser(schedule), steps=steps, spacing=spacing)
    points = spacing(schedule, steps)
    exact_means, exact = data.marginal(schedule, torch.tensor(points[1:], dtype=torch.float64))
    bound = data.angles(schedule, points).diff(dim=0).square().cumsum(0) / 2
    assert_close(means, exact_means, rtol=0, atol=1e-9)
    assert ((deviations / exact - 1).abs() <= bound + 1e-9).all()
