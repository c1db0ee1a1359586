"""The loss: plain where it should be, and comparable between predictions."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.objective import Huber, Objective, absolute, squared
from ldm_train.diffusion.prediction import Clean, Flow, Noise, Velocity
from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine
from ldm_train.diffusion.weighting import EDMWeight, LearnedLogVariance, MinSNR, UniformWeight
from ldm_train.types import Conditioning

SCHEDULE = cosine()
PREDICTIONS = {"noise": Noise(), "velocity": Velocity(), "clean": Clean(), "flow": Flow()}
EVERY = pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)

x, noise, error = torch.randn(3, 5, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
t = torch.tensor([1, 100, 400, 800, 990])


def says(output):
    """A network with this output, whatever it is asked."""
    return lambda x_t, t, conditioning: output


def losses(network, prediction, weighting, **kwargs):
    return Objective(Denoiser(network, SCHEDULE, prediction), weighting)(x, noise, t, Conditioning(), **kwargs)


def test_unweighted_noise_prediction_is_the_plain_squared_error():
    found = losses(says(noise + error), Noise(), UniformWeight())
    expected = torch.stack([F.mse_loss(noise[i] + error[i], noise[i]) for i in range(len(x))])
    assert_close(found.loss, expected)
    assert_close(found.noise_mse, expected)


@EVERY
def test_the_same_estimate_has_the_same_noise_error_and_min_snr_loss_in_every_prediction(prediction):
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in SCHEDULE(t))
    estimated_noise = noise + error
    clean = (SCHEDULE.corrupt(x, noise, t) - sigma * estimated_noise) / alpha
    found = losses(says(prediction.target(clean, estimated_noise, alpha, sigma)), prediction, MinSNR())
    assert_close(found.noise_mse, error.square().mean((1, 2, 3)))
    assert_close(found.loss, SCHEDULE.snr(t).clamp_max(5) * (clean - x).square().mean((1, 2, 3)))


@EVERY
def test_the_target_has_no_loss(prediction):
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in SCHEDULE(t))
    found = losses(says(prediction.target(x, noise, alpha, sigma)), prediction, UniformWeight())
    assert_close(found.loss, torch.zeros_like(found.loss))
    assert_close(found.noise_mse, torch.zeros_like(found.noise_mse))


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_s_loss_is_the_paper_s(sigma_data):
    """lambda |D - x|^2 with lambda = (sigma^2 + s^2) / (sigma s)^2, where lambda c_out^2 = 1 (arXiv 2206.00364, eq. 8)."""
    sigma = torch.tensor([0.01, 0.1, 1.0, 10.0, 80.0], dtype=torch.float64)
    denoiser = Denoiser(says(error), EDM(sigma_data=sigma_data), Velocity())
    found = Objective(denoiser, EDMWeight(sigma_data=sigma_data))(x, noise, sigma, Conditioning())
    clean = denoiser(denoiser.schedule.corrupt(x, noise, sigma), sigma, Conditioning()).clean
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    assert_close(found.loss, weight * (clean - x).square().mean((1, 2, 3)))
    plain = Objective(denoiser, UniformWeight())(x, noise, sigma, Conditioning())
    assert_close(found.loss, plain.loss)


@pytest.mark.parametrize("weighting", [UniformWeight(), MinSNR()], ids=["uniform", "min-snr"])
@EVERY
def test_the_input_noise_changes_the_input_and_nothing_else(prediction, weighting):
    """A network that says the target of the other noise has no loss."""
    seen = []
    shown = noise + 0.1 * error
    target = Denoiser(says(None), SCHEDULE, prediction).target(x, noise, t)
    found = losses(lambda *asked: seen.append(asked) or target, prediction, weighting, input_noise=shown)
    assert_close(seen[0][0], SCHEDULE.corrupt(x, shown, t))
    assert_close(found.loss, torch.zeros_like(found.loss))


def test_a_learned_weighting_is_trained_by_the_loss_beside_the_network():
    weighting = LearnedLogVariance(terms=4)
    output = torch.zeros_like(x, requires_grad=True)
    losses(says(output), Velocity(), weighting).loss.mean().backward()
    assert output.grad.abs().max() > 0
    assert weighting.coefficients.grad.abs().max() > 0


def test_the_network_sees_noisy_latents_the_published_timestep_and_the_conditioning():
    seen = []
    conditioning = Conditioning(vector=torch.rand(5, 1))

    def network(x_t, network_time, given):
        seen.append((x_t, network_time, given))
        return x_t

    Objective(Denoiser(network, SCHEDULE, Noise()), UniformWeight())(x, noise, t, conditioning)
    [(x_t, network_time, given)] = seen
    assert_close(x_t, SCHEDULE.corrupt(x, noise, t))
    assert_close(network_time, (t - 1).float())
    assert torch.equal(given.vector, conditioning.vector.to(x))  # in the type of what the network computes


def test_only_the_loss_has_gradients():
    output = torch.zeros_like(x, requires_grad=True)
    found = losses(says(output), Velocity(), MinSNR())
    assert found.loss.requires_grad
    assert not found.noise_mse.requires_grad


def test_a_half_precision_network_is_judged_in_full_precision():
    found = losses(says(noise.bfloat16()), Noise(), UniformWeight())
    assert found.loss.dtype == x.dtype
    assert_close(found.loss, (noise.bfloat16().double() - noise).square().mean((1, 2, 3)))


REAL = torch.tensor([0.01, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("schedule", "times"),
    [(cosine(), t), (cosine(discrete=False), 1000 * REAL), (RectifiedFlow(), REAL), (EDM(sigma_data=0.5), 80 * REAL)],
    ids=["table", "continuous", "flow", "edm"],
)
@pytest.mark.parametrize(
    "weighting",
    [UniformWeight(), MinSNR(), EDMWeight(), LearnedLogVariance(terms=4)],
    ids=["uniform", "min-snr", "edm", "learned"],
)
def test_it_compiles_as_one_graph(schedule, times, weighting):
    torch.compiler.reset()
    network = torch.nn.Conv2d(2, 2, 3, padding=1, dtype=torch.float64)
    denoiser = Denoiser(lambda x_t, time, conditioning: network(x_t) * time.view(-1, 1, 1, 1), schedule, Velocity())
    objective = Objective(denoiser, weighting)

    def call(x, noise, t, shown):
        found = objective(x, noise, t, Conditioning(), input_noise=shown)
        return found.loss, found.noise_mse

    compiled = torch.compile(call, fullgraph=True, backend="eager")
    assert_close(compiled(x, noise, times, noise + error), call(x, noise, times, noise + error))


def test_errors_cost_what_the_penalty_says():
    for penalty, expected in (
        (squared, F.mse_loss),
        (absolute, F.l1_loss),
        (Huber(0.3), lambda found, true: (0.6 * (((found - true) ** 2 + 0.09).sqrt() - 0.3)).mean()),
    ):
        objective = Objective(Denoiser(says(noise + error), SCHEDULE, Noise()), UniformWeight(), penalty)
        found = objective(x, noise, t, Conditioning())
        assert_close(found.loss, torch.stack([expected(noise[i] + error[i], noise[i]) for i in range(len(x))]))
        assert_close(found.noise_mse, error.square().flatten(1).mean(1))


def test_huber_is_squared_for_small_errors_and_absolute_for_large_ones():
    penalty, small, large = Huber(0.1), torch.tensor([1e-3, -1e-3]), torch.tensor([1e3, -1e3])
    assert_close(penalty(small), small.square(), rtol=1e-3, atol=0)
    assert_close(penalty(large), 0.2 * large.abs(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("delta", [0.0, -1.0, float("nan")])
def test_a_delta_must_be_positive(delta):
    with pytest.raises(ValueError, match="huber_delta"):
        Huber(delta)


def test_a_masked_loss_is_the_mean_over_the_mask_and_teaches_nothing_elsewhere():
    output = (noise + error).requires_grad_()
    mask = torch.zeros_like(x[:, :1])
    mask[:, :, : x.shape[2] // 2] = 1
    found = losses(says(output), Noise(), UniformWeight(), mask=mask)
    expected = error[:, :, : x.shape[2] // 2].square().mean((1, 2, 3))
    assert_close(found.loss, expected)
    assert_close(found.noise_mse, expected)
    found.loss.sum().backward()
    assert output.grad[:, :, : x.shape[2] // 2].any()
    assert not output.grad[:, :, x.shape[2] // 2 :].any()
    assert_close(losses(says(output), Noise(), UniformWeight(), mask=mask / 3).loss, expected)


def test_a_picture_of_which_nothing_counts_has_no_loss_and_a_finite_gradient():
    output = (noise + error).requires_grad_()
    found = losses(says(output), Noise(), UniformWeight(), mask=torch.zeros_like(x[:, :1]))
    assert not found.loss.any()
    found.loss.sum().backward()
    assert not output.grad.any()
