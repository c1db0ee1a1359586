"""Loss weights equal the published closed forms."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.prediction import Clean, Flow, Noise, Velocity
from ldm_train.diffusion.schedules.named import EDM, cosine, linear, scaled_linear
from ldm_train.diffusion.weighting import Debiased, EDMWeight, MinSNR, SoftMinSNR, UniformWeight

t = torch.tensor([1, 10, 100, 300, 700, 1000])
alpha, sigma = linear()(t)
snr = linear().snr(t)
PREDICTIONS = {"noise": Noise(), "velocity": Velocity(), "clean": Clean(), "flow": Flow()}


def weights(weighting, prediction):
    return weighting.weights(snr, prediction.clean_error_per_output_error(alpha, sigma))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize(
    ("prediction", "divisor"),
    [(Noise(), snr), (Velocity(), snr + 1), (Clean(), 1), (Flow(), (snr.sqrt() + 1) ** 2)],
    ids=["noise", "velocity", "clean", "flow"],
)
def test_min_snr_has_its_closed_form(prediction, divisor, gamma):
    assert_close(weights(MinSNR(gamma=gamma), prediction), snr.clamp_max(gamma) / divisor, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("prediction", "divisor"),
    [(Noise(), snr), (Velocity(), snr + 1), (Clean(), 1), (Flow(), (snr.sqrt() + 1) ** 2)],
    ids=["noise", "velocity", "clean", "flow"],
)
def test_soft_min_snr_and_debiased_weights_have_their_closed_forms(prediction, divisor):
    assert_close(weights(SoftMinSNR(gamma=3), prediction), 3 * snr / (snr + 3) / divisor, rtol=1e-6, atol=0)
    assert_close(weights(Debiased(), prediction), snr.sqrt() / divisor, rtol=1e-6, atol=0)


def test_soft_min_snr_is_below_min_snr_and_meets_it_at_both_ends():
    soft, hard = (kind(gamma=5.0).weights(snr, torch.ones_like(snr)) for kind in (SoftMinSNR, MinSNR))
    assert (soft <= hard).all()
    ends = torch.tensor([1e-6, 1e9])
    assert_close(SoftMinSNR(gamma=5.0).weights(ends, torch.ones(2)), torch.tensor([1e-6, 5.0]), rtol=1e-5, atol=0)


def test_min_snr_truncates_some_and_not_all():
    """The closed forms above would agree idly, were all timesteps on one side of gamma."""
    assert (snr > 5).any()
    assert (snr < 1).any()


@pytest.mark.parametrize("schedule", [linear(), scaled_linear(), cosine()], ids=["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize(("prediction", "more"), [(Noise(), 0), (Velocity(), 1)], ids=["noise", "velocity"])
def test_snr_and_min_snr_equal_diffusers(schedule, prediction, more):
    """From the same table; their training scripts divide by SNR for epsilon and SNR + 1 for v-prediction, in float32."""
    reference = DDPMScheduler()
    reference.alphas_cumprod = schedule.alphas_squared
    times = torch.arange(1, 1001)
    expected = compute_snr(reference, times - 1)
    assert_close(schedule.snr(times).float(), expected, rtol=1e-6, atol=0)

    min_snr = torch.stack([expected, 5.0 * torch.ones(1000)], dim=1).min(dim=1)[0] / (expected + more)
    found = MinSNR().weights(schedule.snr(times), prediction.clean_error_per_output_error(*schedule(times)))
    assert_close(found.float(), min_snr, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", [0.0, -1.0])
def test_gamma_must_be_positive(gamma):
    for kind in (MinSNR, SoftMinSNR):
        with pytest.raises(ValueError, match=f"gamma={gamma:g}"):
            kind(gamma=gamma)


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
def test_the_uniform_weight_is_1(prediction):
    assert_close(weights(UniformWeight(), prediction), torch.ones_like(alpha))


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
def test_edm_s_weight_comes_to_1_with_its_preconditioning(sigma_data):
    """lambda(sigma) c_out(sigma)^2 = 1 (arXiv 2206.00364, table 1)."""
    levels = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)
    denoiser = Denoiser(lambda *asked: None, EDM(sigma_data=sigma_data), Velocity())
    clean_error = denoiser.clean_error_per_output_error(levels)
    c_out = levels * sigma_data / (levels**2 + sigma_data**2).sqrt()
    assert_close(clean_error, c_out.square())
    found = EDMWeight(sigma_data=sigma_data).weights(denoiser.schedule.snr(levels), clean_error)
    assert_close(found, torch.ones_like(levels))


@pytest.mark.parametrize("sigma_data", [0.0, -1.0])
def test_sigma_data_must_be_positive(sigma_data):
    with pytest.raises(ValueError, match=f"sigma_data={sigma_data:g} must be above 0"):
        EDMWeight(sigma_data=sigma_data)


@pytest.mark.parametrize("weighting", [UniformWeight(), MinSNR(), EDMWeight()], ids=["uniform", "min-snr", "edm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_is_the_weighted_error_in_its_dtype(weighting, dtype):
    error = torch.linspace(0.1, 2, 6, dtype=dtype)
    clean_error = Velocity().clean_error_per_output_error(alpha, sigma)
    found = weighting.loss(error, snr, clean_error)
    assert_close(found, (weighting.weights(snr, clean_error) * error).to(dtype))
