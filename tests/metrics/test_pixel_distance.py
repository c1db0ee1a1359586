"""Distances in pixels, against values known in closed form."""

import math

import pytest
import torch
from torch.testing import assert_close

from ldm_train.metrics.pixel_distance import find_nearest, psnr


@pytest.mark.parametrize("error", [0.01, 0.1, 0.5, 2.0])
def test_psnr_of_a_constant_error(error: float) -> None:
    """The range is 2, so PSNR = 10 log10(4 / error^2)."""
    references = torch.full((2, 3, 4, 4), -1.0)
    assert_close(psnr(references + error, references), torch.full((2,), 10 * math.log10(4 / error**2)))


def test_psnr_is_per_picture() -> None:
    references = torch.zeros(2, 3, 4, 4)
    images = references.clone()
    images[1] += 0.2
    values = psnr(images, references)
    assert values[0] > 100
    assert_close(values[1].item(), 20.0, rtol=1e-5, atol=0)


def test_psnr_of_random_errors_follows_their_mean_square() -> None:
    draw = torch.Generator().manual_seed(0)
    references = torch.rand(1, 3, 8, 8, generator=draw) - 0.5
    noise = 0.1 * torch.randn(1, 3, 8, 8, generator=draw)
    assert_close(psnr(references + noise, references), 10 * torch.log10(4 / noise.square().mean()).view(1))


def test_psnr_clips_what_a_file_would_clip() -> None:
    references = torch.ones(1, 3, 2, 2)
    assert torch.equal(psnr(references + 5, references), psnr(references, references))


@pytest.mark.parametrize("count", [3, 40])
def test_nearest_finds_a_disturbed_candidate(count: int) -> None:
    draw = torch.Generator().manual_seed(0)
    candidates = torch.rand(count, 3, 8, 8, generator=draw) * 2 - 1
    asked = torch.randperm(count, generator=draw)
    disturbed = candidates[asked] + 0.1 * torch.randn(count, 3, 8, 8, generator=draw)
    assert torch.equal(find_nearest(disturbed, candidates), asked)


def test_nearest_is_by_distance() -> None:
    candidates = torch.stack([torch.full((3, 2, 2), value) for value in (-1.0, 0.0, 1.0)])
    images = torch.stack([torch.full((3, 2, 2), value) for value in (-0.6, -0.4, 0.4, 0.6)])
    assert find_nearest(images, candidates).tolist() == [0, 1, 1, 2]
