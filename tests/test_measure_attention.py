"""scripts/measure_attention.py: what it calls covered is so, and the masks are those of the drawings."""

import importlib

import pytest
import torch

measure_attention = importlib.import_module("measure_attention")


def test_the_area_under_the_curve_counts_pairs() -> None:
    region = torch.tensor([[True, True], [False, False]])
    area = measure_attention.measure_area
    assert area(torch.tensor([[2.0, 3], [0, 1]]), region) == 1
    assert area(torch.tensor([[0.0, 1], [2, 3]]), region) == 0
    assert area(torch.ones(2, 2), region) == 0.5
    assert area(torch.tensor([[2.0, 0], [1, 0]]), region) == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_a_map_that_is_the_mask_reaches_its_limit_and_a_flat_one_is_chance() -> None:
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:, :3] = True  # a map of 4 x 4 places sees half of its second column
    coarse = torch.tensor([1.0, 0.5, 0, 0]).expand(4, 4)
    area, limit, density = measure_attention.cover(coarse, region)
    assert area == limit < 1
    assert density > 2
    area, limit, density = measure_attention.cover(torch.full((4, 4), 0.2), region)
    assert (area, density) == (0.5, pytest.approx(1))


def test_masks_are_where_the_background_does_not_show() -> None:
    font = measure_attention.load_font(64)
    mask = measure_attention.draw_mask("1F345", 64, font)  # a tomato
    assert mask[32, 32]
    assert not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert 0.2 < mask.float().mean() < 0.6
