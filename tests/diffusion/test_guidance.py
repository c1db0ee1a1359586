"""Classifier-free guidance: a line through the null output (0) and the conditional one (1)."""

import pytest
import torch
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.guidance import ClassifierFreeGuidance
from ldm_train.diffusion.prediction import Clean, Noise, Velocity
from ldm_train.diffusion.schedule import linear
from ldm_train.types import Conditioning

x_t = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
t = torch.tensor([10, 500, 1000])
PROMPT = Conditioning(vector=torch.tensor([[1.0], [2.0], [3.0]]))
NULL = Conditioning(vector=torch.full((3, 1), -0.5))


class Recorder:
    """A network whose output depends on all that it is told, and which counts its rows."""

    def __init__(self):
        self.batches = []

    def __call__(self, x_t, t, conditioning):
        self.batches.append(len(x_t))
        return torch.tanh(x_t * conditioning.vector[:, :, None, None]) + t.view(-1, 1, 1, 1) / 1000


def guided(scale, *, network=None, prediction=None):
    plain = Denoiser(network or Recorder(), linear(), prediction or Noise())
    return ClassifierFreeGuidance(plain, NULL, scale)(x_t, t, PROMPT)


def plain(conditioning):
    return Denoiser(Recorder(), linear(), Noise())(x_t, t, conditioning)


@pytest.mark.parametrize(("scale", "batches"), [(1, [3]), (1.0, [3]), (0.0, [6]), (7.5, [6])])
def test_one_call_and_no_null_where_it_has_no_effect(scale, batches):
    network = Recorder()
    guided(scale, network=network)
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


@pytest.mark.parametrize("prediction", [Noise(), Velocity(), Clean()], ids=["noise", "velocity", "clean"])
def test_the_estimates_fit_the_noisy_input(prediction):
    estimate = guided(4.0, prediction=prediction)
    alpha, sigma = (value.float().view(-1, 1, 1, 1) for value in linear()(t))
    assert_close(alpha * estimate.clean + sigma * estimate.noise, x_t, rtol=0, atol=1e-4)


def test_a_sampler_finds_the_schedule():
    schedule = linear(num_steps=7)
    assert ClassifierFreeGuidance(Denoiser(Recorder(), schedule, Noise()), NULL, 2.0).schedule is schedule
