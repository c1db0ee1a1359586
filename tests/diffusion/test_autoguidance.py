"""Autoguidance: a line through a weak denoiser's estimate (0) and a strong one's (1)."""

import pytest
import torch
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.guidance import Autoguidance, ClassifierFreeGuidance, autoguidance
from ldm_train.diffusion.prediction import Clean, Flow, Noise, Velocity
from ldm_train.diffusion.schedules.named import EDM, linear
from ldm_train.types import Conditioning

x_t = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
t = torch.tensor([10, 500, 1000])
PREDICTIONS = {"noise": Noise(), "velocity": Velocity(), "clean": Clean(), "flow": Flow()}


def network(weight, calls=None):
    """A small fixed network, which counts its calls."""

    def forward(x_t, t, conditioning):
        if calls is not None:
            calls.append(len(x_t))
        return torch.tanh(weight * x_t)

    return forward


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
@pytest.mark.parametrize("other", PREDICTIONS.values(), ids=[f"weak-{name}" for name in PREDICTIONS])
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_estimates_are_mixed_whatever_was_predicted(prediction, other, scale):
    """And stay estimates of what is in x_t."""
    strong, weak = (Denoiser(network(weight), linear(), kind) for weight, kind in ((1.3, prediction), (0.4, other)))
    found, one, two = (
        denoiser(x_t, t, Conditioning()) for denoiser in (Autoguidance(strong, weak, scale=scale), strong, weak)
    )
    assert_close(found.clean, two.clean + scale * (one.clean - two.clean))
    assert_close(found.noise, two.noise + scale * (one.noise - two.noise))
    assert_close(linear().corrupt(found.clean, found.noise, t), x_t)


@pytest.mark.parametrize(("scale", "calls"), [(1, 0), (1.0, 0), (2.0, 1)])
def test_a_scale_of_1_is_the_strong_one_alone(scale, calls):
    called = []
    strong, weak = Denoiser(network(1.3), linear(), Noise()), Denoiser(network(0.4, called), linear(), Noise())
    found = Autoguidance(strong, weak, scale=scale)(x_t, t, Conditioning())
    assert len(called) == calls
    if scale == 1:
        assert_close(found.output, strong(x_t, t, Conditioning()).output, rtol=0, atol=0)


def test_a_guided_denoiser_may_be_guided_again():
    null, prompt = (Conditioning(vector=torch.full((3, 1), value)) for value in (0.0, 1.0))
    strong, weak = (Denoiser(network(weight), linear(), Velocity()) for weight in (1.3, 0.4))
    inner = ClassifierFreeGuidance(strong, null, scale=3.0)
    found = Autoguidance(inner, weak, scale=2.0)(x_t, t, prompt)
    expected = inner(x_t, t, prompt).extrapolate_from(weak(x_t, t, prompt), 2.0)
    assert_close(found.clean, expected.clean)


@pytest.mark.parametrize(("level", "is_guided"), [(0.3, False), (0.5, True), (2.0, True), (3.0, False)])
def test_it_is_made_with_its_interval(level, is_guided):
    strong, weak = (Denoiser(network(weight), EDM(), Velocity()) for weight in (1.3, 0.4))
    times = torch.full((3,), level, dtype=torch.float64)
    found = autoguidance(strong, Conditioning(), weak, scale=2.0, interval=[0.3, 2.0])(x_t, times, Conditioning())
    expected = Autoguidance(strong, weak, scale=2.0) if is_guided else strong
    assert_close(found.clean, expected(x_t, times, Conditioning()).clean)


def test_it_needs_a_weaker_model():
    with pytest.raises(ValueError, match=r"guidance=autoguidance .*guidance\.weak=RUN_DIR"):
        autoguidance(Denoiser(network(1.3), linear(), Noise()), Conditioning(), scale=2.0)
