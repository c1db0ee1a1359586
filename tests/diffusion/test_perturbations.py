"""Perturbations of the noise: nothing where they are off, and each its own draw by the example's position."""

import math

import pytest
import torch
from torch.testing import assert_close

from ldm_train.diffusion.perturbations import NO_PERTURBATIONS, Perturbations

POSITIONS = torch.arange(6)
noise = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
OFFSET, INPUT = Perturbations(offset_noise=0.1), Perturbations(input_perturbation=0.2)
BOTH = Perturbations(offset_noise=0.1, input_perturbation=0.2)
EVERY = pytest.mark.parametrize("perturbations", [OFFSET, INPUT, BOTH], ids=["offset", "input", "both"])


@pytest.mark.parametrize("off", [NO_PERTURBATIONS, Perturbations()], ids=["none", "default"])
def test_off_they_are_the_noise_itself(off):
    target, shown = off(noise, POSITIONS, seed=0)
    assert target is noise
    assert shown is noise


def test_offset_noise_moves_whole_channels_of_each_example():
    """In the target too."""
    target, shown = OFFSET(noise, POSITIONS, seed=0)
    assert shown is target
    moved = target - noise
    assert_close(moved, moved[..., :1, :1].expand_as(noise), rtol=0, atol=1e-6)
    assert len(moved[..., 0, 0].flatten().unique()) == 6 * 3


def test_an_input_perturbation_leaves_the_target_alone():
    target, shown = INPUT(noise, POSITIONS, seed=0)
    assert target is noise
    assert len((shown - noise).flatten().unique()) > 1000


@pytest.mark.parametrize("scale", [0.05, 0.5])
def test_they_have_the_variance_that_they_say(scale):
    """To five standard errors."""
    zeros, positions = torch.zeros(500, 4, 4, 4), torch.arange(500)
    target, _ = Perturbations(offset_noise=scale)(zeros, positions, seed=0)
    _, shown = Perturbations(input_perturbation=scale)(zeros, positions, seed=0)
    offsets = target[..., 0, 0]
    assert abs(offsets.std() / scale - 1) < 5 / math.sqrt(2 * offsets.numel())
    assert abs(shown.std() / scale - 1) < 5 / math.sqrt(2 * shown.numel())


@EVERY
def test_they_are_keyed_by_the_position(perturbations):
    together = perturbations(noise, POSITIONS, seed=0)
    apart = perturbations(noise[2:4], POSITIONS[2:4], seed=0)
    assert_close([part[2:4] for part in together], list(apart), rtol=0, atol=0)


@EVERY
def test_seeds_and_positions_differ(perturbations):
    _, first = perturbations(noise, POSITIONS, seed=0)
    _, reseeded = perturbations(noise, POSITIONS, seed=1)
    _, later = perturbations(noise, POSITIONS + 6, seed=0)
    assert (first != reseeded).any()
    assert (first != later).any()


def test_each_has_a_stream_of_its_own():
    """One switched on leaves the other's numbers alone."""
    target, shown = BOTH(noise, POSITIONS, seed=0)
    assert_close(target, OFFSET(noise, POSITIONS, seed=0)[0], rtol=0, atol=0)
    assert_close(shown - target, INPUT(noise, POSITIONS, seed=0)[1] - noise, rtol=0, atol=1e-6)


def test_no_stream_is_another_s():
    """On channels of one pixel both draw as many numbers."""
    pixels = torch.zeros(6, 3, 1, 1)
    target, shown = Perturbations(offset_noise=1.0, input_perturbation=1.0)(pixels, POSITIONS, seed=0)
    assert (target != shown - target).all()


@pytest.mark.parametrize("name", ["offset_noise", "input_perturbation"])
def test_negative_ones_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name}=-0.1 must be 0 \(off\) or above"):
        Perturbations(**{name: -0.1})
