"""Each prediction is undone exactly, and means what diffusers means by it."""

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train.diffusion.prediction import Clean, Noise, Velocity
from ldm_train.diffusion.schedule import cosine, linear

PREDICTIONS = [Noise(), Velocity(), Clean()]
IDS = ["noise", "velocity", "clean"]

x, noise, other = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=IDS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(t=st.integers(1, 1000))
def test_the_way_back_undoes_the_target(prediction, t):
    schedule = linear()
    alpha, sigma = schedule(torch.tensor([t]))
    x_t = alpha * x + sigma * noise
    target = prediction.target(x, noise, alpha, sigma)
    assert_close(prediction.to_clean(target, x_t, alpha, sigma), x)
    assert_close(prediction.to_noise(target, x_t, alpha, sigma), noise)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=IDS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(t=st.integers(1, 1000))
def test_both_estimates_make_up_the_noisy_input_whatever_the_output(prediction, t):
    alpha, sigma = linear()(torch.tensor([t]))
    clean, estimated = (way(other, x, alpha, sigma) for way in (prediction.to_clean, prediction.to_noise))
    assert_close(alpha * clean + sigma * estimated, x)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=IDS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(t=st.integers(1, 1000))
def test_the_relation_of_the_errors_is_measured(prediction, t):
    alpha, sigma = linear()(torch.tensor([t]))
    x_t = alpha * x + sigma * noise
    clean_error = (prediction.to_clean(other, x_t, alpha, sigma) - x).square().sum()
    output_error = (other - prediction.target(x, noise, alpha, sigma)).square().sum()
    assert_close(
        prediction.clean_error_per_output_error(alpha, sigma), (clean_error / output_error)[None], rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("make", "beta_schedule"), [(linear, "linear"), (cosine, "squaredcos_cap_v2")], ids=["linear", "cosine"]
)
def test_velocity_and_noisy_latents_equal_diffusers(make, beta_schedule):
    schedule, reference = make(), DDPMScheduler(num_train_timesteps=1000, beta_schedule=beta_schedule)
    latents, drawn = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([1, 250, 700, 1000])
    alpha, sigma = (value.float().view(-1, 1, 1, 1) for value in schedule(t))
    velocity = Velocity().target(latents, drawn, alpha, sigma)
    assert_close(velocity, reference.get_velocity(latents, drawn, t - 1), rtol=0, atol=1e-5)
    assert_close(schedule.corrupt(latents, drawn, t), reference.add_noise(latents, drawn, t - 1), rtol=0, atol=1e-5)


def test_velocity_is_defined_where_nothing_is_left_of_the_picture():
    alpha, sigma = torch.zeros(1), torch.ones(1)
    target = Velocity().target(x, noise, alpha, sigma)
    assert_close(Velocity().to_clean(target, noise, alpha, sigma), x)
