"""How far drawn pictures are copies of trained ones: ratios with known answers, and the table of both kinds."""

import pytest
import torch

from ldm_train.commands.evaluate.result_files import format_measures
from ldm_train.commands.evaluate.statistics import COPIES, STRANGE, compare_with_trained, describe_copying
from ldm_train.metrics.numbers import Numbers, Resampling
from ldm_train.metrics.sets import nearest_distances

NAME = "nearest_trained_ratio_x"


def points(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_nearest_of_others_is_found() -> None:
    a, b = points(30, 0), points(1100, 1)
    expected = [min((one - other).norm().item() for other in b) for one in a]
    assert nearest_distances(a, b).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["copies", "new", "strange"])
def test_the_ratio_tells_copies_from_new_pictures(kind: str) -> None:
    trained, unseen = points(400, 0), points(200, 1)
    drawn = {"copies": trained[:50] + 0.01, "new": points(200, 2), "strange": 3 * points(200, 2)}[kind]
    numbers = compare_with_trained(drawn, unseen, trained, Resampling(50, 0), extractor="x")
    ratio, (low, high) = float(numbers.values[NAME]), numbers.intervals[NAME]
    assert low <= ratio <= high
    assert {"copies": ratio < 0.1, "new": 0.9 < ratio < 1.1, "strange": ratio > STRANGE}[kind]
    assert f"{ratio:.2f}" in describe_copying(ratio)


def test_each_ratio_means_one_of_three_things() -> None:
    meanings = [describe_copying(ratio).partition(": ")[2] for ratio in (0.0, COPIES, 1.0, STRANGE, STRANGE + 0.01)]
    assert len(set(meanings)) == 3
    assert meanings[1] == meanings[2] == meanings[3]


def test_held_out_pictures_that_were_trained_on_give_no_ratio() -> None:
    trained = points(20, 0)
    assert compare_with_trained(trained, trained[:5], trained, Resampling(0, 0), extractor="x") == Numbers()


def test_figures_of_both_kinds_stand_in_one_row() -> None:
    numbers = Numbers()
    numbers.add("kid_x", 0.25, (0.2, 0.3))
    numbers.add("taught_kid_x", 0.125)
    numbers.add("taught_loss", 0.5)
    numbers.add("few_held_out", True)
    assert list(format_measures(numbers))[2:] == ["| `kid_x` | 0.25 | 0.2 to 0.3 | 0.125 |  |", "| `loss` |  |  | 0.5 |  |"]
    assert list(format_measures(Numbers({"kid_x": 0.25})))[2:] == ["| `kid_x` | 0.25 |  |"]
