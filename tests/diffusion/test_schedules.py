"""The published schedules have the published numbers."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine, from_betas, linear, scaled_linear, sigmoid

WHOLE = torch.arange(1, 1001)
TABLES = pytest.mark.parametrize(
    ("make", "published"),
    [
        (linear, {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
        (scaled_linear, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        (cosine, {"beta_schedule": "squaredcos_cap_v2"}),
    ],
    ids=["linear", "scaled_linear", "cosine"],
)


@TABLES
@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_tables_equal_diffusers(make, published, kind):
    """In float32, where 1000 factors were multiplied: to 1000 roundings. Our t is their index + 1."""
    alpha, _ = make()(WHOLE)
    assert_close(alpha.square().float(), kind(**published).alphas_cumprod, rtol=1000 * 6e-8, atol=0)


@TABLES
def test_a_zero_terminal_snr_equals_diffusers(make, published):
    """From the same betas in float64; they go back to betas, which amplifies roundings by 1 / alpha^2 near the end."""
    plain = make()
    alpha_squared = plain(torch.arange(1001))[0].square()
    betas = rescale_zero_terminal_snr(1 - alpha_squared[1:] / alpha_squared[:-1])
    found = make(zero_terminal_snr=True)
    assert_close(found(WHOLE)[0].square(), torch.cumprod(1 - betas, 0), rtol=0, atol=1e-12)
    assert found(WHOLE)[0][-1] == 0
    assert_close(found(WHOLE)[0][0], plain(WHOLE)[0][0])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.floats(1e-4, 0.5), min_size=1, max_size=20))
def test_betas_are_the_variance_of_single_steps(betas):
    schedule = from_betas(betas)
    alpha, _ = schedule(torch.arange(len(betas) + 1))
    assert_close(1 - (alpha[1:] / alpha[:-1]).square(), torch.tensor(betas, dtype=torch.float64))


@pytest.mark.parametrize("betas", [[0.1, 0.0], [0.1, 1.1], [-0.1, 0.2], [0.1, math.nan], [[0.1, 0.2]]])
def test_betas_out_of_range_are_refused(betas):
    with pytest.raises(ValueError, match=r"schedule.betas must be numbers above 0 and at most 1"):
        from_betas(torch.tensor(betas))


def test_a_last_beta_of_1_ends_in_pure_noise():
    alpha, sigma = from_betas([0.1, 0.5, 1.0])(torch.tensor([3]))
    assert (alpha.item(), sigma.item()) == (0.0, 1.0)


OFFSET, RATE = 0.008 / 1.008 * math.pi / 2, math.pi / 2 / 1.008 / 1000


def closed_cosine(t):
    """cos(a_t) / cos(a_0) for a_t = (t / T + offset) / (1 + offset) pi / 2 (arXiv 2102.09672, eq. 17), as alpha_t."""
    return torch.cos(OFFSET + RATE * t) / math.cos(OFFSET)


def test_the_cosine_is_its_closed_form_at_whole_t():
    """But for the last, whose beta is clipped."""
    assert_close(cosine()(WHOLE[:-1])[0], closed_cosine(WHOLE[:-1].double()), rtol=0, atol=1e-12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(t=st.floats(1, 999))
def test_the_cosine_is_nearly_its_closed_form_between(t):
    """Interpolation errs by an eighth of the angle's second derivative, where that is largest: at the left end.

    For cos(angle) = cos(a) / cos(a_0), angle'' = -a'^2 cot(angle) sin^2(a_0) / (sin^2(a) - sin^2(a_0)).
    """
    t = torch.tensor([t], dtype=torch.float64)
    left = OFFSET + RATE * t.floor()
    angle = closed_cosine(t.floor()).acos()
    bend = RATE**2 / angle.tan() * math.sin(OFFSET) ** 2 / (left.sin() ** 2 - math.sin(OFFSET) ** 2)
    error = (cosine(discrete=False)(t)[0] - closed_cosine(t)).abs()
    assert error <= bend / 8 + 1e-12


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize(("first", "last"), [(-3.0, 3.0), (0.0, 3.0)])
def test_the_sigmoid_is_its_closed_form(first, last, temperature):
    """gamma of arXiv 2212.11972, algorithm 1, with its names."""
    t = WHOLE.double() / 1000
    v_start, v_end = (1 / (1 + math.exp(-end / temperature)) for end in (first, last))
    output = 1 / (1 + torch.exp(-(t * (last - first) + first) / temperature))
    gamma = ((v_end - output) / (v_end - v_start)).clamp(1e-9, 1.0)
    assert_close(sigmoid(first=first, last=last, temperature=temperature)(WHOLE)[0].square(), gamma)


@pytest.mark.parametrize("make", [linear, scaled_linear, cosine, sigmoid, RectifiedFlow])
@pytest.mark.parametrize("shift", [0.5, 2.0, 3.0])
def test_a_shift_moves_the_log_snr_alone(make, shift):
    """By exactly -2 ln(shift), at every t (arXiv 2301.11093, eq. 4; arXiv 2403.03206, eq. 23)."""
    plain, shifted = make(), make(shift=shift)
    t = torch.linspace(0, plain.end, 1001, dtype=torch.float64)[1:-1].to(torch.int64 if plain.discrete else torch.float64)
    moved = torch.full((999,), -2 * math.log(shift), dtype=torch.float64)
    assert_close(shifted.log_snr(t) - plain.log_snr(t), moved, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [linear, cosine, sigmoid, RectifiedFlow])
@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_a_shift_must_be_positive(make, shift):
    with pytest.raises(ValueError, match=f"schedule.shift={shift:g} must be above 0"):
        make(shift=shift)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_rectified_flow_is_a_line(shift):
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    alpha, sigma = RectifiedFlow(shift=shift)(t)
    assert_close(alpha + sigma, torch.ones_like(t))
    assert_close(sigma, shift * t / (1 + (shift - 1) * t))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(shift=st.floats(0.05, 20.0))
def test_rectified_flow_ends_in_pure_noise_for_any_shift(shift):
    """Exactly, so that what is undefined there is refused."""
    assert RectifiedFlow(shift=shift)(torch.tensor([1.0]))[0].item() == 0


def test_edm_s_t_is_its_noise():
    t = torch.tensor([0.002, 1.0, 80.0], dtype=torch.float64)
    alpha, sigma = EDM()(t)
    assert_close((alpha, sigma), (torch.ones_like(t), t))
    assert_close(EDM().network_time(t), 1000 * t.log() / 4)


@pytest.mark.parametrize("name", ["sigma_min", "sigma_data"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_edm_s_parameters_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"schedule.{name}={value:g} must be above 0"):
        EDM(**{name: value})


def test_edm_s_ends_must_rise():
    with pytest.raises(ValueError, match=r"schedule.sigma_max=1.0 must be above schedule.sigma_min=2.0"):
        EDM(sigma_min=2.0, sigma_max=1.0)
