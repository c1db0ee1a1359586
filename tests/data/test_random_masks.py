"""Masks for inpainting: drawn by key and number alone, of every kind, and with something to draw."""

import numpy as np
import pytest

from ldm_train.data.pictures.random_masks import draw_mask

SIZES = [(64, 64), (32, 96), (8, 8)]


@pytest.mark.parametrize("size", SIZES)
def test_a_mask_is_a_function_of_key_and_number_and_covers_something(size: tuple[int, int]) -> None:
    for number in range(40):
        mask = draw_mask("a", number, size)
        assert mask.shape == size
        assert mask.dtype == bool
        assert mask.any()
        assert np.array_equal(mask, draw_mask("a", number, size))


def test_keys_and_numbers_have_masks_of_their_own() -> None:
    masks = {draw_mask(key, number, (64, 64)).tobytes() for key in "ab" for number in range(100)}
    assert len(masks) > 150  # all but those that mask everything or the same half


def test_every_kind_occurs_and_most_leave_something() -> None:
    masks = np.stack([draw_mask("a", number, (64, 64)) for number in range(400)])
    shares = masks.mean((1, 2))
    assert 0.02 < (shares == 1).mean() < 0.09
    assert 0.08 < (shares == 0.5).mean() < 0.22
    rows, columns = masks.any(2).sum(1), masks.any(1).sum(1)
    full = masks.sum((1, 2)) == rows * columns  # rectangles
    assert 0.3 < full.mean() < 0.65
    assert 0.15 < np.median(shares) < 0.5
