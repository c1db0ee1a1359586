"""For Gaussian data every sampler must recover the data's moments, on any schedule and with any prediction.

With theta = atan(sigma / (alpha s)), for data of deviation s, a step of DDIM multiplies x_t's deviation by
cos(theta_t - theta_s) times what the exact solution does. So the errors of the first-order methods are known exactly, and
they bound those of the higher orders.
"""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.prediction import Clean, Flow, Noise, Velocity
from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine, from_betas, linear, scaled_linear, sigmoid
from ldm_train.samplers.ddim import DDIM
from ldm_train.samplers.ddpm import DDPM
from ldm_train.samplers.dpm_solver import DPMSolver
from ldm_train.samplers.euler import Euler
from ldm_train.samplers.euler_ancestral import EulerAncestral
from ldm_train.samplers.heun import Heun
from ldm_train.samplers.spacings import Karras, Trailing
from ldm_train.samplers.unipc import UniPC
from tests.pairwise import parametrize_pairs

STEPS = 64
# A network gets t in float32, to 6e-8; on a schedule of real t the ideal one errs by about as much at each step.
T_ROUNDING = 1e-6

SCHEDULES = {
    "linear": (linear(), Trailing()),
    "linear-karras": (linear(), Karras()),
    "scaled_linear": (scaled_linear(), Trailing()),
    "cosine": (cosine(), Trailing()),
    "sigmoid": (sigmoid(), Trailing()),
    "zero-terminal-snr": (scaled_linear(zero_terminal_snr=True), Trailing()),
    "shifted": (scaled_linear(shift=2.0), Trailing()),
    "betas": (from_betas([0.01 * k for k in range(1, 100)]), Trailing()),
    "continuous": (cosine(discrete=False), Trailing()),
    "flow": (RectifiedFlow(), Trailing()),
    "flow-shifted": (RectifiedFlow(shift=3.0), Trailing()),
    "edm": (EDM(sigma_data=0.5), Karras()),
}
SETTINGS = pytest.mark.parametrize("setting", SCHEDULES.values(), ids=SCHEDULES)
PREDICTIONS = {"noise": Noise(), "velocity": Velocity(), "clean": Clean(), "flow": Flow()}


def samplers(**which):
    """Every sampler with every schedule, every sampler with every prediction, and every schedule with every prediction."""

    def defined(sampler, setting, prediction):
        """Where alpha is 0 at the end, a prediction of the noise is refused."""
        schedule, _ = setting
        return not isinstance(prediction, Noise) or schedule(torch.tensor([schedule.end]))[0] > 0

    return parametrize_pairs(sampler=which, setting=SCHEDULES, prediction=PREDICTIONS, defined=defined)


FIRST_ORDER = samplers(ddim=DDIM(), euler=Euler(), eta0=EulerAncestral(eta=0.0))
ANCESTRAL = samplers(ddpm=DDPM(), ddim_eta1=DDIM(eta=1.0), ancestral=EulerAncestral())
HIGHER_ORDER = samplers(
    heun=Heun(),
    heun_ratio=Heun(over_ratio=True),
    dpm=DPMSolver(),
    unipc1=UniPC(order=1),
    unipc2=UniPC(order=2),
    unipc3=UniPC(order=3),
)


def samples(data, sampler, denoiser, spacing, *, stochastic=False):
    means, deviations = data.push(sampler, denoiser, steps=STEPS, spacing=spacing, stochastic=stochastic)
    return means[-1], deviations[-1]


@FIRST_ORDER
def test_first_order_methods_err_as_their_closed_form_says(data, sampler, setting, prediction):
    schedule, spacing = setting
    denoiser = Denoiser(data.network(schedule, prediction), schedule, prediction)
    mean, deviation = samples(data, sampler, denoiser, spacing)
    kept = data.angles(schedule, spacing(schedule, STEPS)).diff(dim=0).cos().prod(0)
    assert_close(mean, data.mean, rtol=0, atol=T_ROUNDING)
    assert_close(deviation, data.deviation * kept, rtol=T_ROUNDING, atol=0)


@HIGHER_ORDER
def test_higher_orders_come_nearer_than_the_first(data, sampler, setting, prediction):
    """But for the step to clean, which is Euler's for all and multiplies by the cosine of the last angle."""
    schedule, spacing = setting
    if isinstance(sampler, Heun) and sampler.over_ratio:
        spacing = Karras(sigma_max=10.0)  # as it asks for
    denoiser = Denoiser(data.network(schedule, prediction), schedule, prediction)
    mean, deviation = samples(data, sampler, denoiser, spacing)
    cosines = data.angles(schedule, spacing(schedule, STEPS)).diff(dim=0).cos()
    error = (deviation / (data.deviation * cosines[-1]) - 1).abs()
    assert_close(mean, data.mean, rtol=0, atol=T_ROUNDING)
    assert (error < 1 - cosines[:-1].prod(0) + T_ROUNDING).all()


@ANCESTRAL
def test_ancestral_methods_err_as_their_closed_form_says(data, sampler, setting, prediction):
    """They leave out the variance of x given x_t: of the data's, sum sin^2(theta_t - theta_s) (sin(theta_t + theta_s) /
    sin theta_t)^2, which vanishes as the number of steps grows.
    """
    schedule, spacing = setting
    denoiser = Denoiser(data.network(schedule, prediction), schedule, prediction)
    mean, deviation = samples(data, sampler, denoiser, spacing, stochastic=True)
    theta = data.angles(schedule, spacing(schedule, STEPS))
    t, s = theta[:-1], theta[1:]
    lost = ((t - s).sin() * (t + s).sin() / t.sin()).square().sum(0)
    assert_close(mean, data.mean, rtol=0, atol=T_ROUNDING)
    assert_close(deviation, data.deviation * (1 - lost).sqrt(), rtol=T_ROUNDING, atol=0)


@pytest.mark.parametrize("make", [DDIM, EulerAncestral], ids=["ddim", "ancestral"])
@pytest.mark.parametrize("eta", [0.3, 0.7])
@SETTINGS
def test_between_them_the_variance_follows_its_recursion(data, make, eta, setting):
    """In y = x / alpha and r = sigma / alpha, v = eta^2 r_s^2 (1 - (r_s / r_t)^2) is new and sqrt(r_s^2 - v) is kept."""
    schedule, spacing = setting
    ratios = schedule.ratio(torch.tensor(spacing(schedule, STEPS), dtype=torch.float64)).clamp_max(1e12).tolist()
    variance = data.deviation**2 + ratios[0] ** 2
    for t, s in pairwise(ratios):
        new = eta**2 * s**2 * (1 - (s / t) ** 2)
        response = (data.deviation**2 + (s**2 - new) ** 0.5 * t) / (data.deviation**2 + t**2)
        variance = response**2 * variance + new
    mean, deviation = samples(data, make(eta=eta), data.denoiser(schedule), spacing, stochastic=True)
    assert_close(mean, data.mean, rtol=0, atol=T_ROUNDING)
    assert_close(deviation, variance.sqrt(), rtol=T_ROUNDING, atol=0)


@samplers(dpm_stochastic=DPMSolver(stochastic=True))
def test_the_stochastic_dpm_solver_comes_nearer_than_the_ancestral_methods(data, sampler, setting, prediction):
    schedule, spacing = setting
    denoiser = Denoiser(data.network(schedule, prediction), schedule, prediction)
    (mean, deviation), (_, ancestral) = (
        samples(data, each, denoiser, spacing, stochastic=True) for each in (sampler, DDPM())
    )
    assert_close(mean, data.mean, rtol=0, atol=T_ROUNDING)
    assert ((deviation - data.deviation).abs() < (ancestral - data.deviation).abs()).all()
