"""The loss: plain where it should be, and comparable between predictions."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.objective import Objective
from ldm_train.diffusion.prediction import Clean, Noise, Velocity
from ldm_train.diffusion.schedule import cosine
from ldm_train.diffusion.weighting import MinSNR, UniformWeight
from ldm_train.types import Conditioning

SCHEDULE = cosine()
x, noise, error = torch.randn(3, 5, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
t = torch.tensor([1, 100, 400, 800, 990])


def says(output):
    """A network with this output, whatever it is asked."""
    return lambda x_t, t, conditioning: output


def losses(network, prediction, weighting):
    return Objective(Denoiser(network, SCHEDULE, prediction), weighting)(x, noise, t, Conditioning())


def test_unweighted_noise_prediction_is_the_plain_squared_error():
    found = losses(says(noise + error), Noise(), UniformWeight())
    expected = torch.stack([F.mse_loss(noise[i] + error[i], noise[i]) for i in range(len(x))])
    assert_close(found.loss, expected)
    assert_close(found.noise_mse, expected)


@pytest.mark.parametrize("prediction", [Noise(), Velocity(), Clean()], ids=["noise", "velocity", "clean"])
def test_the_same_estimate_has_the_same_noise_error_and_min_snr_loss_in_every_prediction(prediction):
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in SCHEDULE(t))
    estimated_noise = noise + error
    clean = (SCHEDULE.corrupt(x, noise, t) - sigma * estimated_noise) / alpha
    found = losses(says(prediction.target(clean, estimated_noise, alpha, sigma)), prediction, MinSNR())
    assert_close(found.noise_mse, error.square().mean((1, 2, 3)))
    assert_close(found.loss, SCHEDULE.snr(t).clamp_max(5) * (clean - x).square().mean((1, 2, 3)))


@pytest.mark.parametrize("prediction", [Noise(), Velocity(), Clean()], ids=["noise", "velocity", "clean"])
def test_the_target_has_no_loss(prediction):
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in SCHEDULE(t))
    found = losses(says(prediction.target(x, noise, alpha, sigma)), prediction, UniformWeight())
    assert_close(found.loss, torch.zeros_like(found.loss))
    assert_close(found.noise_mse, torch.zeros_like(found.noise_mse))


def test_the_network_sees_noisy_latents_the_published_timestep_and_the_conditioning():
    seen = []
    conditioning = Conditioning(vector=torch.zeros(5, 1))

    def network(x_t, told_t, told):
        seen.append((x_t, told_t, told))
        return x_t

    Objective(Denoiser(network, SCHEDULE, Noise()), UniformWeight())(x, noise, t, conditioning)
    [(x_t, told_t, told)] = seen
    assert_close(x_t, SCHEDULE.corrupt(x, noise, t))
    assert_close(told_t, t - 1)
    assert told is conditioning


def test_only_the_loss_has_gradients():
    output = torch.zeros_like(x, requires_grad=True)
    found = losses(says(output), Velocity(), MinSNR())
    assert found.loss.requires_grad
    assert not found.noise_mse.requires_grad


def test_a_half_precision_network_is_judged_in_full_precision():
    found = losses(says(noise.bfloat16()), Noise(), UniformWeight())
    assert found.loss.dtype == x.dtype
    assert_close(found.loss, (noise.bfloat16().double() - noise).square().mean((1, 2, 3)))
