"""Classifier-free guidance: a line through the null output (0) and the conditional one (1), where it is wanted."""

import pytest
import torch
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.guidance import (
    ClassifierFreeGuidance,
    FixedConditioning,
    LimitedGuidance,
    classifier_free,
    limit_to_interval,
)
from ldm_train.diffusion.prediction import Clean, Flow, Noise, Velocity
from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, linear
from ldm_train.types import Conditioning

x_t = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
t = torch.tensor([10, 500, 1000])
PROMPT = Conditioning(vector=torch.tensor([[1.0], [2.0], [3.0]]))
NULL = Conditioning(vector=torch.full((3, 1), -0.5))


class Recorder:
    """A network whose output depends on all its inputs, and which counts its rows."""

    def __init__(self):
        self.batches = []

    def __call__(self, x_t, t, conditioning):
        self.batches.append(len(x_t))
        return torch.tanh(x_t * conditioning.vector[:, :, None, None]) + t.view(-1, 1, 1, 1) / 1000


def guided(scale, *, network=None, prediction=None, rescale=0.0):
    plain = Denoiser(network or Recorder(), linear(), prediction or Noise())
    return ClassifierFreeGuidance(plain, NULL, scale=scale, rescale=rescale)(x_t, t, PROMPT)


def plain(conditioning):
    return Denoiser(Recorder(), linear(), Noise())(x_t, t, conditioning)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize(("scale", "batches"), [(1, [3]), (1.0, [3]), (0.0, [6]), (7.5, [6])])
def test_one_call_and_no_null_where_it_has_no_effect(scale, batches, rescale):
    network = Recorder()
    guided(scale, network=network, rescale=rescale)
    assert network.batches == batches


@pytest.mark.parametrize(("scale", "conditioning"), [(1, PROMPT), (0, NULL)])
def test_1_is_the_prompt_and_0_is_null(scale, conditioning):
    found, expected = guided(scale), plain(conditioning)
    assert_close(found.output, expected.output)
    assert_close(found.clean, expected.clean)
    assert_close(found.noise, expected.noise)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 7.5])
def test_the_output_is_linear_in_the_scale(scale):
    null, conditional = plain(NULL).output, plain(PROMPT).output
    assert_close(guided(scale).output, null + scale * (conditional - null))


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("prediction", [Noise(), Velocity(), Clean(), Flow()], ids=["noise", "velocity", "clean", "flow"])
def test_the_estimates_fit_the_noisy_input(prediction, rescale):
    """In float32, through a division by alpha of 0.006 or sigma of 0.03."""
    estimate = guided(4.0, prediction=prediction, rescale=rescale)
    alpha, sigma = (value.float().view(-1, 1, 1, 1) for value in linear()(t))
    assert_close(alpha * estimate.clean + sigma * estimate.noise, x_t, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 3.0, 7.5])
def test_a_rescale_of_1_has_the_conditional_output_s_deviation(scale):
    found = guided(scale, rescale=1.0).output
    assert_close(found.std(dim=(1, 2, 3)), plain(PROMPT).output.std(dim=(1, 2, 3)))


@pytest.mark.parametrize("rescale", [0.3, 0.7])
def test_a_rescale_between_is_between(rescale):
    """arXiv 2305.08891, eq. 16."""
    none, all_, some = (guided(5.0, rescale=share).output for share in (0.0, 1.0, rescale))
    assert_close(some, rescale * all_ + (1 - rescale) * none)


@pytest.mark.parametrize("rescale", [-0.1, 1.1])
def test_a_rescale_out_of_range_is_refused(rescale):
    with pytest.raises(ValueError, match=rf"guidance\.rescale={rescale}"):
        guided(2.0, rescale=rescale)


LEVELS = {
    "linear": (linear(), torch.tensor([200, 400, 600, 800])),
    "flow": (RectifiedFlow(), torch.tensor([0.2, 0.4, 0.6, 0.8])),
    "edm": (EDM(), torch.tensor([0.1, 1.0, 10.0, 40.0])),
}


@pytest.mark.parametrize(("schedule", "times"), LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize(("index", "calls"), [(0, "plain"), (1, "plain"), (2, "guided"), (3, "plain")])
def test_an_interval_is_open_below_and_closed_above(schedule, times, index, calls):
    """Of four noise levels it goes from the second, which is not in it, to the third, which is."""
    _, low, high, _ = schedule.ratio(times).tolist()
    called = []
    limits = LimitedGuidance(
        lambda *asked: called.append("guided"), Denoiser(Recorder(), schedule, Velocity()), low=low, high=high
    )
    limits.plain = lambda *asked: called.append("plain")
    limits(x_t, times[index].expand(3), PROMPT)
    assert called == [calls]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (2.0, 2.0), (3.0, 2.0)])
def test_an_interval_that_does_not_rise_is_refused(low, high):
    plain = Denoiser(Recorder(), linear(), Noise())
    with pytest.raises(ValueError, match=r"guidance\.interval="):
        LimitedGuidance(plain, plain, low=low, high=high)


@pytest.mark.parametrize("interval", [[], [1.0], [1.0, 2.0, 3.0]])
def test_an_interval_of_other_than_two_levels_is_refused(interval):
    plain = Denoiser(Recorder(), linear(), Noise())
    with pytest.raises(ValueError, match=r"guidance\.interval=.*\[low, high\]"):
        limit_to_interval(plain, plain, interval)


@pytest.mark.parametrize("at", [100, 500, 900])
def test_classifier_free_guidance_is_made_with_its_interval(at):
    """From a sigma / alpha of 1 to one of 5, about t = 260 and t = 570 of the linear schedule."""
    denoiser, times = Denoiser(Recorder(), linear(), Noise()), torch.full((3,), at)
    found = classifier_free(denoiser, NULL, scale=4.0, interval=[1.0, 5.0])(x_t, times, PROMPT)
    everywhere = ClassifierFreeGuidance(denoiser, NULL, scale=4.0)
    assert_close(found.output, (everywhere if at == 500 else denoiser)(x_t, times, PROMPT).output)


def test_no_interval_is_everywhere():
    guidance = classifier_free(Denoiser(Recorder(), linear(), Noise()), NULL, scale=4.0, rescale=0.5)
    assert_close(guidance(x_t, t, PROMPT).output, guided(4.0, rescale=0.5).output)


def test_a_conditioning_of_its_own_is_what_counts():
    denoiser = Denoiser(Recorder(), linear(), Noise())
    assert_close(FixedConditioning(denoiser, NULL)(x_t, t, PROMPT).output, plain(NULL).output)
    assert FixedConditioning(denoiser, NULL).schedule is denoiser.schedule


@pytest.mark.parametrize("interval", [None, [0.0, 1.0]])
def test_a_sampler_finds_the_schedule(interval):
    schedule = linear(num_steps=7)
    assert classifier_free(Denoiser(Recorder(), schedule, Noise()), NULL, scale=2.0, interval=interval).schedule is schedule
