"""Every sampler goes through the same points as diffusers' on the same schedule. Our t is their index + 1."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.prediction import Clean, Flow, Noise, Velocity
from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine, linear, scaled_linear
from ldm_train.samplers.ddim import DDIM
from ldm_train.samplers.ddpm import DDPM
from ldm_train.samplers.dpm_solver import DPMSolver
from ldm_train.samplers.euler import Euler
from ldm_train.samplers.euler_ancestral import EulerAncestral
from ldm_train.samplers.heun import Heun
from ldm_train.samplers.spacings import Karras, Trailing
from ldm_train.samplers.unipc import UniPC
from ldm_train.types import Conditioning

# diffusers makes arrays of tensors, in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

STEPS = 20  # divides 1000: elsewhere DDIM's and DDPM's step before t is not the next of their own list
SCHEDULES = pytest.mark.parametrize(
    ("schedule", "published"),
    [
        (scaled_linear(), {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        (cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    ],
    ids=["scaled_linear", "cosine"],
)
PREDICTIONS = pytest.mark.parametrize(
    ("prediction", "name"),
    [(Noise(), "epsilon"), (Velocity(), "v_prediction"), (Clean(), "sample")],
    ids=["noise", "velocity", "clean"],
)


def wavy(x_t, network_time, conditioning):
    """A small fixed network without structure."""
    return torch.tanh(1.3 * x_t.roll(1, dims=-1) - 0.4 * x_t) + 0.2 * torch.cos(network_time.float() / 100).view(-1, 1, 1, 1)


def noise(seed=0):
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def run_sampler(sampler, denoiser, spacing=None, **kwargs):
    """x after each step."""
    reached = []
    sampler(
        denoiser,
        noise(),
        Conditioning(),
        steps=STEPS,
        spacing=spacing,
        callback=lambda number, x_s, estimate: reached.append(x_s),
        **kwargs,
    )
    return torch.stack(reached)


def run_scheduler(reference, start, network=wavy, **kwargs):
    """x after each of their steps, which they count from 0 where they call the network once for each."""
    x, reached = start, []
    for number, t in enumerate(reference.timesteps):
        shown = reference.scale_model_input(x, t) if hasattr(reference, "scale_model_input") else x
        more = {name: value(number) if callable(value) else value for name, value in kwargs.items()}
        x = reference.step(network(shown, t.expand(len(x)), Conditioning()), t, x, **more).prev_sample
        reached.append(x)
    return torch.stack(reached)


def assert_same(found, expected):
    """To 1e-4 of the latents' deviation after each step: they keep their sigmas in float32, 20 steps and an amplification by
    1 / alpha long."""
    scale = expected.std(dim=(1, 2, 3, 4), keepdim=True)
    assert_close(found / scale, expected / scale, rtol=0, atol=1e-4)


def started(kind, *, steps=STEPS, **settings):
    reference = kind(**settings)
    reference.set_timesteps(steps)
    return reference


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@PREDICTIONS
@SCHEDULES
def test_ddim(schedule, published, prediction, name, eta):
    reference = started(DDIMScheduler, **published, prediction_type=name, timestep_spacing="trailing", clip_sample=False)
    added = {"variance_noise": noise} if eta else {}
    expected = run_scheduler(reference, noise(), eta=eta, **added)
    assert_same(run_sampler(DDIM(eta=eta), Denoiser(wavy, schedule, prediction), generator=noise), expected)


@PREDICTIONS
@SCHEDULES
def test_ddpm(schedule, published, prediction, name):
    reference = started(DDPMScheduler, **published, prediction_type=name, timestep_spacing="trailing", clip_sample=False)
    expected = run_scheduler(reference, noise(), generator=torch.Generator().manual_seed(1))
    found = run_sampler(DDPM(), Denoiser(wavy, schedule, prediction), generator=torch.Generator().manual_seed(1))
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("sampler", "kind", "settings", "added"),
    [
        pytest.param(DPMSolver(), DPMSolverMultistepScheduler, {}, {}, id="dpm"),
        pytest.param(
            DPMSolver(stochastic=True),
            DPMSolverMultistepScheduler,
            {"algorithm_type": "sde-dpmsolver++"},
            {"variance_noise": noise},
            id="dpm-stochastic",
        ),
        pytest.param(UniPC(order=1), UniPCMultistepScheduler, {"solver_order": 1}, {}, id="unipc1"),
        pytest.param(UniPC(order=2), UniPCMultistepScheduler, {"solver_order": 2, "solver_type": "bh2"}, {}, id="unipc2"),
    ],
)
@PREDICTIONS
@SCHEDULES
def test_multistep_methods(schedule, published, prediction, name, sampler, kind, settings, added):
    reference = started(
        kind, **published, **settings, prediction_type=name, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    expected = run_scheduler(reference, noise(), **added)
    assert_same(run_sampler(sampler, Denoiser(wavy, schedule, prediction), generator=noise), expected)


@PREDICTIONS
@SCHEDULES
def test_the_third_order_of_unipc(schedule, published, prediction, name):
    """But for the last two steps: they have second order in the last but one, for the sake of few steps."""
    settings = {"solver_order": 3, "timestep_spacing": "trailing", "final_sigmas_type": "zero"}
    expected = run_scheduler(started(UniPCMultistepScheduler, **published, **settings, prediction_type=name), noise())
    assert_same(run_sampler(UniPC(order=3), Denoiser(wavy, schedule, prediction))[:-2], expected[:-2])


@pytest.mark.parametrize("beta_schedule", [linear, scaled_linear])
@pytest.mark.parametrize(
    ("sampler", "kind", "prediction", "name"),
    [
        pytest.param(Euler(), EulerDiscreteScheduler, Noise(), "epsilon", id="euler-noise"),
        pytest.param(Euler(), EulerDiscreteScheduler, Velocity(), "v_prediction", id="euler-velocity"),
        pytest.param(Euler(), EulerDiscreteScheduler, Clean(), "sample", id="euler-clean"),
        pytest.param(EulerAncestral(), EulerAncestralDiscreteScheduler, Noise(), "epsilon", id="ancestral-noise"),
        pytest.param(EulerAncestral(), EulerAncestralDiscreteScheduler, Velocity(), "v_prediction", id="ancestral-velocity"),
        pytest.param(Heun(over_ratio=True), HeunDiscreteScheduler, Noise(), "epsilon", id="heun-noise"),
        pytest.param(Heun(over_ratio=True), HeunDiscreteScheduler, Velocity(), "v_prediction", id="heun-velocity"),
    ],
)
def test_methods_over_the_noise_level(beta_schedule, sampler, kind, prediction, name):
    """They hold x / alpha in float32, which cancels to our x where alpha is not small: not on the cosine schedule.

    Heun's two halves are two steps of run_scheduler, but for the last.
    """
    settings = {"beta_schedule": beta_schedule.__name__, "prediction_type": name, "timestep_spacing": "trailing"}
    schedule = beta_schedule(beta_start=0.00085, beta_end=0.012)
    reference = started(kind, **settings, beta_start=0.00085, beta_end=0.012)
    alphas = schedule(torch.tensor(Trailing()(schedule, STEPS)))[0].float()
    drawn = {"generator": torch.Generator().manual_seed(1)} if kind is EulerAncestralDiscreteScheduler else {}
    expected = run_scheduler(reference, noise() / alphas[0], **drawn)
    if kind is HeunDiscreteScheduler:
        expected = torch.cat([expected[1:-1:2], expected[-1:]])
    found = run_sampler(sampler, Denoiser(wavy, schedule, prediction), generator=torch.Generator().manual_seed(1))
    assert_same(found, expected * alphas[1:].view(-1, 1, 1, 1, 1))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_rectified_flow(shift):
    schedule = RectifiedFlow(shift=shift)
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    reference.set_timesteps(sigmas=[(STEPS - i) / STEPS for i in range(STEPS)])
    assert_same(run_sampler(Euler(), Denoiser(wavy, schedule, Flow())), run_scheduler(reference, noise()))


def test_edm():
    """The network time is 1000 times their c_noise, and the velocity is the negative of their output."""
    schedule = EDM(sigma_data=0.5)
    reference = started(EDMEulerScheduler, sigma_data=0.5)
    expected = run_scheduler(
        reference,
        noise() * reference.init_noise_sigma,
        lambda x_t, c_noise, conditioning: -wavy(x_t, 1000 * c_noise, conditioning),
    )
    assert_same(run_sampler(Euler(), Denoiser(wavy, schedule, Velocity()), Karras()), expected)
