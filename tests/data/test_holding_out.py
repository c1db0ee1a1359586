"""How many pictures are held out where no source names any: enough of a small set to measure something, copies together."""

import pytest
import torch

from ldm_train.data.batches.holding_out import choose_held_out, count_held_out, spread_evenly
from ldm_train.util.held_out_figures import ENOUGH, held_out_name, pair_names, say_if_few, taught_name


def digests(count: int) -> torch.Tensor:
    return torch.randint(2**32, (count,), generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize(
    ("pictures", "least", "most"),
    [(20, 4, 4), (60, 12, 12), (99, 19, 19), (100, 20, 20), (300, 20, 30), (4000, 150, 250), (1, 0, 1), (19, 0, 3)],
)
def test_small_sets_hold_out_enough(pictures: int, least: int, most: int) -> None:
    assert least <= choose_held_out(digests(pictures), None).sum() <= most


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4])
def test_a_share_that_is_given_is_all_that_decides(share: float) -> None:
    picture = digests(60)
    assert torch.equal(choose_held_out(picture, share), picture / 2**32 < share)


def test_copies_stay_together_and_count_once() -> None:
    picture = digests(60).repeat(3)
    held_out = choose_held_out(picture, None).view(3, 60)
    assert held_out[0].sum() == 12
    assert (held_out == held_out[0]).all()


def test_pictures_that_are_added_release_no_more_than_they_replace() -> None:
    before, after = choose_held_out(digests(50), None), choose_held_out(torch.cat([digests(50), digests(10)]), None)
    assert (before & ~after[:50]).sum() <= after[50:].sum()


def test_hexadecimal_digests_count_the_same() -> None:
    assert count_held_out([f"{value:08x}ffff" for value in digests(60).tolist()], None) == 12
    assert count_held_out([], None) == 0


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 3, 6]), (None, list(range(10))), (99, list(range(10))), (0, [])])
def test_a_choice_is_spread_evenly(count: int | None, expected: list[int]) -> None:
    assert spread_evenly(torch.arange(10), count).tolist() == expected


def test_a_figure_has_one_name_for_each_kind() -> None:
    name, taught = "metrics/retrieval_at_1", "metrics/taught_retrieval_at_1"
    assert (taught_name(name), held_out_name(taught), held_out_name(name)) == (taught, name, name)
    assert pair_names([taught, name, "kid_x"]) == {name: taught, "kid_x": "taught_kid_x"}


@pytest.mark.parametrize("count", [0, 1, ENOUGH - 1])
def test_few_pictures_are_said_to_be_few(count: int) -> None:
    assert str(count) in say_if_few(count)
    assert say_if_few(ENOUGH) == say_if_few(None) == ""
