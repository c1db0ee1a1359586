"""For Gaussian data the ideal denoiser is known in closed form, and every sampler must recover the data's moments."""

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.prediction import Clean, Noise, Velocity
from ldm_train.diffusion.schedule import cosine, linear, scaled_linear
from ldm_train.samplers.base import trailing
from ldm_train.samplers.ddim import DDIM
from ldm_train.samplers.ddpm import DDPM
from ldm_train.types import Conditioning

PREDICTIONS = pytest.mark.parametrize("prediction", [Noise(), Velocity(), Clean()], ids=["noise", "velocity", "clean"])
SAMPLERS = pytest.mark.parametrize("sampler", [DDIM(), DDIM(eta=1.0), DDPM()], ids=["ddim", "ddim-eta1", "ddpm"])

# The data: two channels of one pixel, N(MEAN, diag(DEVIATION^2)).
MEAN = torch.tensor([1.5, -0.5], dtype=torch.float64).view(2, 1, 1)
DEVIATION = torch.tensor([0.5, 2.0], dtype=torch.float64).view(2, 1, 1)


def ideal_network(schedule, prediction):
    """E[target | x_t] for the Gaussian data; every target is linear in clean and noise, so their means make up its own."""

    def network(x_t, told_t, conditioning):
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in schedule(told_t + 1))
        clean = MEAN + alpha * DEVIATION**2 * (x_t - alpha * MEAN) / (alpha**2 * DEVIATION**2 + sigma**2)
        return prediction.target(clean, (x_t - alpha * clean) / sigma, alpha, sigma)

    return network


def moments_of_samples(sampler, denoiser, *, steps):
    """The exact mean and deviation of the samples, (C, 1, 1) each, when x_T follows the data's own q(x_T).

    With the ideal denoiser, a sample is affine in x_T and in the noise of every step. Row 0 gets zeros in place of all
    of these, and each further row a single one: its distance from row 0 is what that noise contributes.
    """
    alpha, sigma = denoiser.schedule(torch.tensor(denoiser.schedule.num_steps))
    rows = torch.eye(steps + 2, dtype=torch.float64)[:, 1:, None, None, None].expand(-1, -1, 2, 1, 1)
    x_t = alpha * MEAN + (alpha**2 * DEVIATION**2 + sigma**2).sqrt() * rows[:, 0]
    samples = sampler(denoiser, x_t, Conditioning(), steps=steps, draw=lambda number: rows[:, number + 1])
    return samples[0], (samples[1:] - samples[0]).square().sum(0).sqrt()


@SAMPLERS
@PREDICTIONS
@pytest.mark.parametrize("make", [linear, scaled_linear, cosine])
def test_the_samples_have_the_data_s_moments(make, prediction, sampler):
    schedule = make()
    mean, deviation = moments_of_samples(
        sampler, Denoiser(ideal_network(schedule, prediction), schedule, prediction), steps=250
    )
    assert_close(mean, MEAN, rtol=0, atol=1e-6)
    assert_close(deviation, DEVIATION, rtol=0.03, atol=0)


@SAMPLERS
def test_more_steps_come_nearer(sampler):
    schedule = cosine()
    denoiser = Denoiser(ideal_network(schedule, Velocity()), schedule, Velocity())
    errors = [(moments_of_samples(sampler, denoiser, steps=steps)[1] - DEVIATION).abs().max() for steps in (10, 40, 160)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_pure_noise_is_mapped_to_the_data_in_a_line():
    """What DDIM does to N(0, 1): three points tell its mean, its deviation, and that it bends nothing."""
    schedule = linear()
    denoiser = Denoiser(ideal_network(schedule, Noise()), schedule, Noise())
    points = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64).view(3, 1, 1, 1).expand(3, 2, 1, 1)
    samples = DDIM()(denoiser, points, Conditioning(), steps=500, draw=lambda number: torch.zeros_like(points))
    assert_close(samples[0], MEAN, rtol=0, atol=0.05)
    assert_close(samples[1] - samples[0], DEVIATION, rtol=0.02, atol=0)
    assert_close(samples[2] - samples[1], samples[1] - samples[0])


def wavy(x_t, told_t, conditioning):
    """A small fixed network without structure."""
    return torch.tanh(1.3 * x_t.roll(1, dims=-1) - 0.4 * x_t) + 0.2 * torch.cos(told_t / 100.0).view(-1, 1, 1, 1)


def noise_of(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step_noise(number):
    return noise_of((3, 2, 4, 4), seed=100 + number)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("prediction", "name"), [(Noise(), "epsilon"), (Velocity(), "v_prediction"), (Clean(), "sample")])
@pytest.mark.parametrize(
    ("make", "beta_schedule"), [(linear, "linear"), (cosine, "squaredcos_cap_v2")], ids=["linear", "cosine"]
)
def test_ddim_follows_diffusers(make, beta_schedule, prediction, name, eta):
    """20 steps divide 1000: elsewhere their step before t is not the next one of their own list."""
    reference = DDIMScheduler(
        beta_schedule=beta_schedule,
        prediction_type=name,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
    )
    reference.set_timesteps(20)
    x = noise_of((3, 2, 4, 4))
    trajectory = []
    denoiser = Denoiser(wavy, make(), prediction)
    DDIM(eta=eta)(
        denoiser, x, Conditioning(), steps=20, draw=step_noise, callback=lambda number, x_s, estimate: trajectory.append(x_s)
    )
    for number, index in enumerate(reference.timesteps):
        output = wavy(x, index.expand(3), Conditioning())
        kwargs = {"variance_noise": step_noise(number)} if eta else {}
        x = reference.step(output, index, x, eta=eta, **kwargs).prev_sample
        assert_close(trajectory[number], x, rtol=1e-4, atol=1e-4)


@PREDICTIONS
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_ddim_with_eta_1_is_ddpm(prediction, steps):
    denoiser = Denoiser(wavy, linear(), prediction)
    samples = [
        s(denoiser, step_noise(-1).double(), Conditioning(), steps=steps, draw=step_noise) for s in (DDIM(eta=1.0), DDPM())
    ]
    assert_close(samples[0], samples[1])


@SAMPLERS
def test_a_picture_does_not_depend_on_its_batch(sampler):
    denoiser = Denoiser(wavy, linear(), Velocity())
    x_t = step_noise(-1)
    together = sampler(denoiser, x_t, Conditioning(), steps=10, draw=step_noise)
    alone = sampler(denoiser, x_t[1:2], Conditioning(), steps=10, draw=lambda number: step_noise(number)[1:2])
    assert_close(together[1:2], alone)


@SAMPLERS
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_callback_sees_every_step(sampler, steps):
    seen = []
    sample = sampler(
        Denoiser(wavy, linear(), Noise()),
        step_noise(-1),
        Conditioning(),
        steps=steps,
        draw=step_noise,
        callback=lambda number, x_s, estimate: seen.append((number, x_s, estimate.clean)),
    )
    assert [number for number, _, _ in seen] == list(range(steps))
    assert_close(seen[-1][1], sample)
    # The last step goes to t = 0, where the clean estimate is all there is.
    assert_close(seen[-1][2], sample)


@pytest.mark.parametrize("steps", [-1, 0, 11])
def test_steps_that_the_schedule_does_not_have_are_refused(steps):
    denoiser = Denoiser(wavy, linear(num_steps=10), Noise())
    with pytest.raises(ValueError, match=f"steps={steps} must be from 1 to the schedule's 10"):
        DDIM()(denoiser, step_noise(0), Conditioning(), steps=steps, draw=step_noise)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.data())
def test_timesteps_fall_from_the_last_to_0(data):
    num_steps = data.draw(st.integers(1, 1000))
    timesteps = trailing(num_steps, steps := data.draw(st.integers(1, num_steps)))
    assert len(timesteps) == steps + 1
    assert (timesteps[0], timesteps[-1]) == (num_steps, 0)
    assert all(t > s for t, s in pairwise(timesteps))


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_out_of_range_is_refused(eta):
    with pytest.raises(ValueError, match=f"eta={eta}"):
        DDIM(eta=eta)
