"""Noise schedules: properties of any, and diffusers' numbers for the published ones."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train.diffusion.schedule import NoiseSchedule, cosine, from_betas, linear, scaled_linear

SCHEDULES = [linear, scaled_linear, cosine]


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("num_steps", [10, 1000])
def test_the_snr_falls(make, num_steps):
    snr = make(num_steps=num_steps).snr(torch.arange(num_steps + 1))
    assert snr[0] == float("inf")
    assert (snr[1:].diff() < 0).all()


@pytest.mark.parametrize("make", SCHEDULES)
def test_the_variance_is_preserved(make):
    alpha, sigma = make()(torch.arange(1001))
    assert_close(alpha.square() + sigma.square(), torch.ones(1001, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", SCHEDULES)
def test_t_is_0_for_clean_and_num_steps_for_noise(make):
    schedule = make()
    alpha, sigma = schedule(torch.tensor([0, schedule.num_steps]))
    assert (alpha[0], sigma[0]) == (1, 0)
    assert alpha[1] < 0.1
    with pytest.raises(IndexError):
        schedule(torch.tensor([schedule.num_steps + 1]))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.floats(1e-4, 0.5), min_size=1, max_size=20))
def test_betas_are_the_variance_of_single_steps(betas):
    schedule = from_betas(torch.tensor(betas, dtype=torch.float64))
    alpha, _ = schedule(torch.arange(len(betas) + 1))
    assert_close(1 - (alpha[1:] / alpha[:-1]).square(), torch.tensor(betas, dtype=torch.float64))


def test_corrupting_gives_the_forward_process_moments():
    schedule = cosine()
    x, t = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, 400, 1000])
    noise = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0))
    x_t = schedule.corrupt(x[:, None].expand_as(noise), noise, t)
    alpha, sigma = (value.float() for value in schedule(t))
    assert_close(x_t.mean(1), alpha * x, rtol=0, atol=0.03)
    assert_close(x_t.std(1), sigma, rtol=0.03, atol=0)


def test_corrupting_at_0_changes_nothing():
    x, noise = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert_close(linear().corrupt(x, noise, torch.zeros(3, dtype=torch.long)), x, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_corrupting_keeps_the_dtype(dtype):
    x = torch.ones(2, 1, 2, 2, dtype=dtype)
    assert linear().corrupt(x, x, torch.tensor([3, 500])).dtype == dtype


@pytest.mark.parametrize(
    "table",
    [[0.5, 0.9], [0.9, 0.9], [1.0, 0.5], [0.9, -0.1], [[0.9, 0.5]]],
    ids=["rises", "stays", "starts clean", "negative", "two-dimensional"],
)
def test_bad_tables_are_refused(table):
    with pytest.raises(ValueError, match="must fall strictly"):
        NoiseSchedule(torch.tensor(table, dtype=torch.float64))


def test_a_schedule_is_a_value():
    with pytest.raises(FrozenInstanceError):
        linear().alphas_squared = torch.ones(3)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("schedule", "published"),
    [
        (linear(), {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
        (scaled_linear(), {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        (cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    ],
    ids=["linear", "scaled_linear", "cosine"],
)
def test_tables_equal_diffusers(schedule, published):
    """Our t is their index + 1: they start at the first noisy step."""
    reference = DDPMScheduler(num_train_timesteps=1000, **published)
    alpha, _ = schedule(torch.arange(1, 1001))
    assert_close(alpha.square().float(), reference.alphas_cumprod, rtol=0, atol=1e-6)
