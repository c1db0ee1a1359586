"""Each prediction is undone exactly, and means what diffusers means by it."""

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train.diffusion.prediction import Clean, Flow, Noise, Velocity
from ldm_train.diffusion.schedules.named import cosine, from_betas, linear, scaled_linear

PREDICTIONS = {"noise": Noise(), "velocity": Velocity(), "clean": Clean(), "flow": Flow()}
EVERY = pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
ANOTHER = pytest.mark.parametrize("another", PREDICTIONS.values(), ids=[f"from-{name}" for name in PREDICTIONS])

# Where both shares are at least a hundredth, a division loses two digits of float64's sixteen.
angles = st.floats(0.01, 1.56)
COORDINATES = st.one_of(
    angles.map(lambda angle: (torch.tensor(angle).double().cos(), torch.tensor(angle).double().sin())),
    st.floats(0.01, 0.99).map(lambda t: (torch.tensor(1 - t).double(), torch.tensor(t).double())),
    st.floats(0.01, 80.0).map(lambda sigma: (torch.tensor(1.0).double(), torch.tensor(sigma).double())),
)

x, noise, other = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@EVERY
@settings(max_examples=50, deadline=None, derandomize=True)
@given(coordinates=COORDINATES)
def test_the_way_back_undoes_the_target(prediction, coordinates):
    """Variance-preserving, rectified flow's and EDM's."""
    alpha, sigma = coordinates
    x_t = alpha * x + sigma * noise
    target = prediction.target(x, noise, alpha, sigma)
    assert_close(prediction.to_clean(target, x_t, alpha, sigma), x, rtol=0, atol=1e-10)
    assert_close(prediction.to_noise(target, x_t, alpha, sigma), noise, rtol=0, atol=1e-10)


@EVERY
@ANOTHER
@settings(max_examples=30, deadline=None, derandomize=True)
@given(coordinates=COORDINATES)
def test_any_output_becomes_that_of_another_prediction_and_back(prediction, another, coordinates):
    alpha, sigma = coordinates
    first = other
    for asked, said in ((another, prediction), (prediction, another)):
        estimates = (way(first, x, alpha, sigma) for way in (said.to_clean, said.to_noise))
        first = asked.target(*estimates, alpha, sigma)
    assert_close(first, other, rtol=0, atol=1e-10)


@EVERY
@settings(max_examples=30, deadline=None, derandomize=True)
@given(coordinates=COORDINATES)
def test_both_estimates_make_up_the_noisy_input_whatever_the_output(prediction, coordinates):
    alpha, sigma = coordinates
    clean, estimated = (way(other, x, alpha, sigma) for way in (prediction.to_clean, prediction.to_noise))
    assert_close(alpha * clean + sigma * estimated, x, rtol=0, atol=1e-10)


@EVERY
@settings(max_examples=30, deadline=None, derandomize=True)
@given(coordinates=COORDINATES)
def test_the_relation_of_the_errors_is_measured(prediction, coordinates):
    alpha, sigma = coordinates
    x_t = alpha * x + sigma * noise
    clean_error = (prediction.to_clean(other, x_t, alpha, sigma) - x).square().sum()
    output_error = (other - prediction.target(x, noise, alpha, sigma)).square().sum()
    assert_close(prediction.clean_error_per_output_error(alpha, sigma), clean_error / output_error, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    "schedule",
    [linear(), scaled_linear(), cosine(), from_betas([0.02 * k for k in range(1, 50)])],
    ids=["linear", "scaled_linear", "cosine", "betas"],
)
def test_velocity_and_noisy_latents_equal_diffusers(schedule):
    """From the same table, in float64."""
    reference = DDPMScheduler(num_train_timesteps=schedule.end)
    reference.alphas_cumprod = schedule.alphas_squared
    latents, drawn = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor([1, schedule.end // 4, schedule.end // 2, schedule.end])
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in schedule(t))
    velocity = Velocity().target(latents, drawn, alpha, sigma)
    assert_close(velocity, reference.get_velocity(latents, drawn, t - 1), rtol=1e-6, atol=1e-12)
    assert_close(schedule.corrupt(latents, drawn, t), reference.add_noise(latents, drawn, t - 1), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("prediction", [Velocity(), Flow()], ids=["velocity", "flow"])
@pytest.mark.parametrize(("alpha", "sigma"), [(0.0, 1.0), (1.0, 0.0)], ids=["pure noise", "clean"])
def test_velocity_and_flow_are_defined_at_both_ends(prediction, alpha, sigma):
    alpha, sigma = torch.tensor(alpha).double(), torch.tensor(sigma).double()
    target = prediction.target(x, noise, alpha, sigma)
    x_t = alpha * x + sigma * noise
    assert_close(prediction.to_clean(target, x_t, alpha, sigma), x)
    assert_close(prediction.to_noise(target, x_t, alpha, sigma), noise)


@pytest.mark.parametrize(("prediction", "ends"), [(Noise(), (0.0, 1.0)), (Clean(), (1.0, 0.0))], ids=["noise", "clean"])
def test_an_output_that_is_the_unknown_itself_is_returned_unrounded(prediction, ends):
    """Also where the other unknown is undefined."""
    for alpha, sigma in (ends, (0.3, 0.7)):
        solve = prediction.to_noise if isinstance(prediction, Noise) else prediction.to_clean
        assert solve(other, x, torch.tensor(alpha).double(), torch.tensor(sigma).double()) is other


@EVERY
@settings(max_examples=30, deadline=None, derandomize=True)
@given(coordinates=COORDINATES)
def test_the_estimates_solve_the_two_equations(prediction, coordinates):
    """x_t = alpha x + sigma noise and output = a x + b noise."""
    alpha, sigma = coordinates
    a, b = prediction.coefficients(alpha, sigma)
    clean, estimated = (solve(other, x, alpha, sigma) for solve in (prediction.to_clean, prediction.to_noise))
    assert_close(a * clean + b * estimated, other, rtol=0, atol=1e-10)


def test_flow_is_velocity_in_other_units():
    """On rectified flow noise - x is dx_t / dt, and where alpha = sigma velocity is flow by the root of 2."""
    half = torch.tensor(0.5).double().sqrt()
    assert_close(Velocity().target(x, noise, half, half), half * Flow().target(x, noise, half, half))
