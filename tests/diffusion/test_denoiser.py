"""The denoiser, the only caller of the network: its inputs, and the estimates made of its output."""

import pytest
import torch
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser, Estimate
from ldm_train.diffusion.prediction import Clean, Flow, Noise, Velocity
from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine, linear, scaled_linear
from ldm_train.types import Conditioning

PREDICTIONS = {"noise": Noise(), "velocity": Velocity(), "clean": Clean(), "flow": Flow()}
EVERY = pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
SCHEDULES = {
    "linear": (linear(), torch.tensor([1, 400, 1000])),
    "continuous": (cosine(discrete=False), torch.tensor([1.0, 400.5, 990.0], dtype=torch.float64)),
    "flow": (RectifiedFlow(shift=3.0), torch.tensor([0.001, 0.5, 0.99], dtype=torch.float64)),
    "edm": (EDM(sigma_data=0.5), torch.tensor([0.002, 1.0, 80.0], dtype=torch.float64)),
}
AT = pytest.mark.parametrize(("schedule", "t"), SCHEDULES.values(), ids=SCHEDULES)
DEFINED = pytest.mark.parametrize(
    ("schedule", "t", "prediction"),
    [
        pytest.param(*at, prediction, id=f"{where}-{name}")
        for where, at in SCHEDULES.items()
        for name, prediction in PREDICTIONS.items()
        if (where, name) != ("flow", "noise")
    ],
)

x, noise, output = torch.randn(3, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Convolution(torch.nn.Module):
    """A network that looks at the latents alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x_t, t, conditioning):
        return self.layer(x_t)


def test_the_conditioning_has_the_dtype_of_the_weights():
    found = []

    class Kept(Convolution):
        def forward(self, x_t, t, conditioning):
            found.append(conditioning)
            return super().forward(x_t, t, conditioning)

    network = Kept(torch.nn.Conv2d(2, 2, 1, dtype=torch.bfloat16))
    given = Conditioning(torch.ones(3, 2, 4), torch.ones(3, 2, dtype=torch.bool), torch.ones(3, 1), torch.ones(3, 1, 4, 4))
    with torch.no_grad():
        Denoiser(network, linear(), Noise())(x.float(), torch.tensor([1, 400, 1000]), given)
    [kept] = found
    assert (kept.tokens.dtype, kept.vector.dtype, kept.maps.dtype) == (torch.bfloat16,) * 3
    assert kept.mask.dtype == torch.bool


def says(answer):
    """A network with this answer, whatever it is asked."""
    return lambda x_t, t, conditioning: answer


@DEFINED
def test_the_target_implies_what_it_was_made_of(schedule, t, prediction):
    """To float64's rounding by the division by alpha or sigma, a thousandth at the least."""
    target = Denoiser(says(None), schedule, prediction).target(x, noise, t)
    estimate = Denoiser(says(target), schedule, prediction)(schedule.corrupt(x, noise, t), t, Conditioning())
    assert_close((estimate.clean, estimate.noise), (x, noise), rtol=0, atol=1e-10)


@DEFINED
def test_both_estimates_make_up_the_noisy_latents(schedule, t, prediction):
    estimate = Denoiser(says(output), schedule, prediction)(x, t, Conditioning())
    assert_close(schedule.corrupt(estimate.clean, estimate.noise, t), x, rtol=0, atol=1e-10)


@DEFINED
def test_the_relation_of_the_errors_is_measured(schedule, t, prediction):
    denoiser = Denoiser(says(output), schedule, prediction)
    x_t = schedule.corrupt(x, noise, t)
    clean_error = (denoiser(x_t, t, Conditioning()).clean - x).square().sum((1, 2, 3))
    output_error = (output - denoiser.target(x, noise, t)).square().sum((1, 2, 3))
    assert_close(denoiser.clean_error_per_output_error(t), clean_error / output_error, rtol=1e-8, atol=0)


@AT
def test_the_network_receives_the_schedule_s_time_and_the_conditioning(schedule, t):
    """In float32, as its embedding takes it."""
    seen, conditioning = [], Conditioning(vector=torch.rand(3, 1))
    Denoiser(lambda *shown: seen.append(shown) or output, schedule, Velocity())(x, t, conditioning)
    [(_, network_time, given)] = seen
    assert_close(network_time, schedule.network_time(t).float(), rtol=0, atol=0)
    assert torch.equal(given.vector, conditioning.vector.to(x))  # in the type of what the network computes


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("latents", [torch.float32, torch.float64])
def test_a_network_computes_in_its_weights_precision_and_is_judged_in_the_latents(weights, latents):
    network = torch.nn.Conv2d(2, 2, 3, padding=1, dtype=weights)
    t = torch.tensor([1, 400, 1000])
    estimate = Denoiser(Convolution(network), linear(), Velocity())(x.to(latents), t, Conditioning())
    assert {part.dtype for part in (estimate.output, estimate.clean, estimate.noise)} == {latents}
    assert_close(estimate.output, network(x.to(latents).to(weights)).to(latents), rtol=0, atol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
def test_edm_with_velocity_is_the_paper_s_preconditioning(sigma_data):
    """D = c_skip x + c_out F(c_in x; c_noise) (arXiv 2206.00364, eq. 7 and table 1), where F = -v."""
    sigma = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    seen = []
    denoiser = Denoiser(lambda *shown: seen.append(shown) or output, EDM(sigma_data=sigma_data), Velocity())
    x_t = x + sigma.view(-1, 1, 1, 1) * noise
    estimate = denoiser(x_t, sigma, Conditioning())

    total = (sigma**2 + sigma_data**2).view(-1, 1, 1, 1)
    c_skip, c_in = sigma_data**2 / total, 1 / total.sqrt()
    c_out, c_noise = sigma.view(-1, 1, 1, 1) * sigma_data / total.sqrt(), sigma.log() / 4
    [(network_input, network_time, _)] = seen
    assert_close(network_input, c_in * x_t)
    assert_close(network_time, (1000 * c_noise).float())
    assert_close(estimate.clean, c_skip * x_t - c_out * output)
    assert_close(-denoiser.target(x, noise, sigma), (x - c_skip * x_t) / c_out)


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
@pytest.mark.parametrize("level", [0.002, 0.5, 80.0])
def test_edm_s_network_is_shown_and_asked_for_unit_variance(sigma_data, level):
    """To five standard errors of 20,000 draws of data with that deviation."""
    sigma = torch.full((1,), level, dtype=torch.float64)
    data, added = torch.randn(2, 1, 1, 100, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data, seen = sigma_data * data, []
    denoiser = Denoiser(lambda *shown: seen.append(shown[0]) or data, EDM(sigma_data=sigma_data), Velocity())
    denoiser(denoiser.schedule.corrupt(data, added, sigma), sigma, Conditioning())
    found = torch.stack([seen[0].std(), denoiser.target(data, added, sigma).std()])
    assert_close(found, torch.ones_like(found), rtol=0, atol=5 / 40_000**0.5)


@pytest.mark.parametrize(
    "schedule",
    [
        scaled_linear(zero_terminal_snr=True),
        scaled_linear(zero_terminal_snr=True, discrete=False),
        RectifiedFlow(),
        RectifiedFlow(shift=0.1),
    ],
    ids=["zero-terminal-snr", "continuous", "flow", "flow-shifted"],
)
def test_noise_prediction_is_refused_where_sampling_starts_from_pure_noise(schedule):
    with pytest.raises(ValueError, match=r"prediction=noise .*prediction=velocity, flow or clean"):
        Denoiser(says(output), schedule, Noise())


@EVERY
@pytest.mark.parametrize("schedule", [linear(), cosine(), EDM()], ids=["linear", "cosine", "edm"])
def test_elsewhere_every_prediction_is_taken(schedule, prediction):
    assert Denoiser(says(output), schedule, prediction).terminal_amplification() < float("inf")


@pytest.mark.parametrize(
    ("schedule", "prediction", "expected"),
    [
        (linear(), Noise(), linear().ratio(torch.tensor([1000])).item()),
        (RectifiedFlow(), Flow(), 1.0),
        (RectifiedFlow(), Velocity(), 1.0),
        (RectifiedFlow(), Clean(), 1.0),
        (EDM(sigma_data=0.5), Velocity(), 0.5 * 80 / (80**2 + 0.5**2) ** 0.5),
    ],
    ids=["noise", "flow", "velocity", "clean", "edm"],
)
def test_the_amplification_at_the_end(schedule, prediction, expected):
    assert Denoiser(says(output), schedule, prediction).terminal_amplification() == pytest.approx(expected)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 3.0])
def test_extrapolation_is_a_line_through_both(scale):
    one, other = Estimate(x, noise, output), Estimate(noise, output, x)
    found = one.extrapolate_from(other, scale)
    assert_close(found.output, noise + scale * (x - noise))
    assert_close(found.clean, output + scale * (noise - output))
    assert_close(found.noise, x + scale * (output - x))
