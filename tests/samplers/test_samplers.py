"""What holds for every sampler, whatever the denoiser."""

import math

import pytest
import torch
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.prediction import Clean, Flow, Noise, Velocity
from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine, linear, scaled_linear
from ldm_train.samplers.base import TimePoint, draw_noise
from ldm_train.samplers.ddim import DDIM
from ldm_train.samplers.ddpm import DDPM
from ldm_train.samplers.dpm_solver import DPMSolver
from ldm_train.samplers.euler import Euler
from ldm_train.samplers.euler_ancestral import EulerAncestral
from ldm_train.samplers.heun import Heun
from ldm_train.samplers.spacings import Karras
from ldm_train.samplers.unipc import UniPC
from ldm_train.types import Conditioning
from tests.pairwise import parametrize_pairs

DETERMINISTIC = {
    "ddim": DDIM(),
    "euler": Euler(),
    "ancestral-eta0": EulerAncestral(eta=0.0),
    "heun": Heun(),
    "heun-ratio": Heun(over_ratio=True),
    "dpm": DPMSolver(),
    "unipc1": UniPC(order=1),
    "unipc2": UniPC(),
    "unipc3": UniPC(order=3),
}
STOCHASTIC = {
    "ddim-eta1": DDIM(eta=1.0),
    "ddpm": DDPM(),
    "ancestral": EulerAncestral(),
    "dpm-stochastic": DPMSolver(stochastic=True),
}
ALL = DETERMINISTIC | STOCHASTIC


def samplers(which):
    return pytest.mark.parametrize("sampler", which.values(), ids=which)


def wavy(x_t, reported_t, conditioning):
    """A small fixed network without structure."""
    return torch.tanh(1.3 * x_t.roll(1, dims=-1) - 0.4 * x_t) + 0.2 * torch.cos(reported_t / 100.0).view(-1, 1, 1, 1)


def noise(seed=0):
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def sample(sampler, denoiser=None, x=None, **kwargs):
    denoiser = denoiser or Denoiser(wavy, linear(), Velocity())
    settings = {"steps": 8, "generator": noise, "spacing": Karras()} | kwargs
    return sampler(denoiser, noise(-1) if x is None else x, Conditioning(), **settings)


@samplers(ALL)
def test_a_picture_does_not_depend_on_its_batch(sampler):
    """To float32's rounding: a batch of one may be summed in another order."""
    alone = sample(sampler, x=noise(-1)[1:2], generator=lambda number: noise(number)[1:2])
    assert_close(sample(sampler)[1:2], alone)


@samplers(ALL)
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_the_callback_sees_every_step(sampler, steps):
    seen = []
    found = sample(sampler, steps=steps, callback=lambda *step: seen.append(step))
    assert [number for number, _, _ in seen] == list(range(steps))
    assert_close(seen[-1][1], found, rtol=0, atol=0)


@samplers({name: sampler for name, sampler in ALL.items() if name != "heun-ratio"})
@pytest.mark.parametrize(
    "schedule", [scaled_linear(zero_terminal_snr=True), RectifiedFlow(), EDM()], ids=["vp", "flow", "edm"]
)
def test_the_last_step_leaves_the_clean_estimate(sampler, schedule):
    """Also from pure noise, and where that is the only step."""
    seen = []
    denoiser = Denoiser(wavy, schedule, Flow())
    found = sample(
        sampler, denoiser, steps=1, spacing=None, callback=lambda number, x_s, estimate: seen.append(estimate.clean)
    )
    assert_close(found, seen[-1])


@samplers(STOCHASTIC)
def test_a_generator_makes_it_reproducible(sampler):
    first, again, other = (sample(sampler, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, other)


@samplers(STOCHASTIC)
def test_a_stochastic_method_without_a_generator_is_refused(sampler):
    with pytest.raises(ValueError, match="`generator`"):
        sample(sampler, generator=None)


@samplers(DETERMINISTIC)
def test_a_deterministic_method_draws_nothing(sampler):
    def refuse(number):
        raise AssertionError("drawn")

    assert_close(sample(sampler, generator=refuse), sample(sampler, generator=None), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_drawn_noise_is_like_the_latents(dtype):
    found = draw_noise(torch.Generator().manual_seed(0), 3, noise().to(dtype))
    assert (found.shape, found.dtype) == (noise().shape, dtype)


@parametrize_pairs(
    other={"ddim": DDIM(eta=1.0), "ancestral": EulerAncestral()},
    prediction={"velocity": Velocity(), "clean": Clean(), "flow": Flow()},
    schedule={"cosine": cosine(), "flow": RectifiedFlow(), "edm": EDM()},
)
def test_methods_with_ddpm_s_variance_are_one(other, prediction, schedule):
    denoiser = Denoiser(wavy, schedule, prediction)
    settings = {"spacing": None, "generator": lambda number: noise(number).double()}
    assert_close(*(sample(sampler, denoiser, noise(-1).double(), **settings) for sampler in (DDPM(), other)))


@pytest.mark.parametrize("sampler", [Euler(), EulerAncestral(eta=0.0)], ids=["euler", "ancestral"])
def test_methods_without_variance_are_ddim(sampler):
    assert_close(sample(sampler), sample(DDIM()), rtol=1e-4, atol=1e-5)


def test_rectified_flow_s_steps_are_euler_s_in_its_own_coordinates():
    """x_s = x_t + (s - t) u (arXiv 2209.03003, section 2.1)."""
    denoiser, x, reached = Denoiser(wavy, RectifiedFlow(), Flow()), noise(-1).double(), []
    sample(Euler(), denoiser, x, spacing=None, callback=lambda number, x_s, estimate: reached.append(x_s))
    expected = []
    for number in range(8):
        t = (8 - number) / 8
        x = x - wavy(x, torch.full((3,), 1000 * t), None) / 8
        expected.append(x)
    assert_close(torch.stack(reached), torch.stack(expected))


def test_heun_calls_the_network_twice_a_step_and_once_in_the_last():
    calls = []
    denoiser = Denoiser(lambda x_t, t, conditioning: calls.append(t) or x_t, linear(), Noise())
    sample(Heun(), denoiser, steps=5)
    assert len(calls) == 9


@samplers({name: sampler for name, sampler in ALL.items() if "heun" not in name})
def test_the_others_call_it_once_a_step(sampler):
    calls = []
    sample(sampler, Denoiser(lambda x_t, t, conditioning: calls.append(t) or x_t, linear(), Noise()), steps=5)
    assert len(calls) == 5


def test_heun_over_the_ratio_is_refused_at_pure_noise():
    with pytest.raises(ValueError, match=r"sampler\.over_ratio=true"):
        sample(Heun(over_ratio=True), Denoiser(wavy, RectifiedFlow(), Flow()), spacing=None)


@pytest.mark.parametrize("discrete", [True, False])
def test_pure_noise_is_an_infinite_ratio(discrete):
    """Whether t is a whole number or a real one."""
    schedule = scaled_linear(zero_terminal_snr=True, discrete=discrete)
    point = TimePoint.of(schedule, schedule.end if discrete else float(schedule.end))
    assert (point.alpha, point.sigma) == (0.0, 1.0)
    assert (point.ratio, point.log_ratio) == (math.inf, -math.inf)


def test_clean_is_a_ratio_of_0():
    point = TimePoint.of(linear(), 0)
    assert (point.alpha, point.sigma, point.ratio, point.log_ratio) == (1.0, 0.0, 0.0, math.inf)


@pytest.mark.parametrize("make", [DDIM, EulerAncestral])
@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_out_of_range_is_refused(make, eta):
    with pytest.raises(ValueError, match=f"eta={eta} must be from 0"):
        make(eta=eta)


@pytest.mark.parametrize("order", [0, 4, 2.5])
def test_an_order_that_unipc_lacks_is_refused(order):
    with pytest.raises(ValueError, match=f"order={order} must be 1, 2 or 3"):
        UniPC(order=order)
