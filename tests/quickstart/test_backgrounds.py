"""Which background a picture has, on pictures of known colours."""

import pytest
import torch
from torch.testing import assert_close

from ldm_train.metrics.evaluation import Comparison
from ldm_train.quickstart.backgrounds import BackgroundAccuracy, has_background, measure_corner_colours


def test_corner_colours_see_the_corners_alone() -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[:, 0, :4, :4] = 1
    images[:, 1, :4, -4:] = 1
    images[:, 2, -4:, :4] = 1
    images[:, :, -4:, -4:] = -1
    images[:, :, 4:-4, :] = 7
    images[:, :, :, 4:-4] = 7
    assert_close(measure_corner_colours(images), torch.zeros(1, 3))
    images[:, 0, -4:, -4:] = 1
    assert_close(measure_corner_colours(images), torch.tensor([[0.5, 0.0, 0.0]]))


@pytest.mark.parametrize("side", [1, 2, 4])
def test_corner_colours_of_a_given_side(side: int) -> None:
    images = torch.zeros(2, 3, 16, 16)
    images[1, :, :side, :side] = 4.0
    assert_close(measure_corner_colours(images, side=side), torch.tensor([[0.0] * 3, [1.0] * 3]))
    assert_close(measure_corner_colours(images, side=2 * side)[1], torch.full((3,), 0.25))


def test_a_background_is_right_whatever_is_before_it() -> None:
    draw = torch.Generator().manual_seed(0)
    asked = ["red", "blue", "red", "white", "blue"]
    colours = {"red": (1.0, -1.0, -1.0), "blue": (-1.0, -1.0, 1.0), "white": (1.0, 1.0, 1.0)}
    truth = torch.stack([torch.tensor(colours[name]).view(3, 1, 1).expand(3, 16, 16) for name in asked]).clone()
    images = truth * 0.8 + 0.1 * torch.randn(truth.shape, generator=draw)
    images[..., 5:11, 5:11] = torch.randn(5, 3, 6, 6, generator=draw)
    assert has_background(images, asked, truth, asked).all()
    images[1] = truth[0]
    assert has_background(images, asked, truth, asked).tolist() == [True, False, True, True, True]


@pytest.mark.parametrize("backgrounds", [[None, "red"], ["red", "red"]], ids=["one has none", "all are the same"])
def test_no_accuracy_where_backgrounds_say_nothing(backgrounds: list[str | None]) -> None:
    images = torch.zeros(2, 3, 16, 16)
    fields = [{} if name is None else {"background": name} for name in backgrounds]
    assert BackgroundAccuracy()(Comparison(images, images, ["a", "b"], fields, held_out=True)) == {}
