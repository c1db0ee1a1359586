"""Confidence intervals, by how often they hold what they should."""

import pytest
import torch
from torch import Tensor

from ldm_train.metrics.intervals import jackknife_interval
from ldm_train.metrics.sets import kernel_distance


def mean_of(values: Tensor) -> tuple[float, float]:
    return jackknife_interval(lambda indices: values[indices].mean().item(), len(values), seed=3)


@pytest.mark.parametrize("count", [20, 51])
def test_the_interval_of_a_mean_is_as_wide_as_in_the_textbook(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    low, high = jackknife_interval(lambda indices: values[indices].mean().item(), count, seed=0, resamples=4000)
    half = 1.96 * values.std().item() / count**0.5
    assert (low + high) / 2 == pytest.approx(values.mean().item(), abs=0.1 * half)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_most_intervals_hold_the_truth() -> None:
    """95 % of them: of 200, at least 180 but for one time in some thousand; a percentile interval of few is a bit short."""
    draws = torch.randn(200, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    intervals = [mean_of(values) for values in draws]
    assert 180 <= sum(low <= 0 <= high for low, high in intervals) < 200


def test_a_distance_between_sets_is_not_pulled_off() -> None:
    """The mean over intervals of independent sets is where the distances are; a bootstrap's would be far above 0."""
    draw = torch.Generator().manual_seed(1)
    real = torch.randn(400, 4, generator=draw)
    centres = []
    for _ in range(10):
        drawn = torch.randn(30, 4, generator=draw)
        low, high = jackknife_interval(
            lambda indices, drawn=drawn: kernel_distance(real, drawn[indices]), 30, seed=0, resamples=50
        )
        centres.append((low + high) / 2)
        assert low < kernel_distance(real, drawn) < high
    scatter = torch.tensor(centres).std().item()
    assert abs(sum(centres) / 10) < scatter


def test_the_same_seed_gives_the_same_interval_and_leaves_the_global_generator_alone() -> None:
    values, before = torch.arange(9.0), torch.get_rng_state()
    assert mean_of(values) == mean_of(values)
    assert torch.equal(torch.get_rng_state(), before)
    other = jackknife_interval(lambda indices: values[indices].mean().item(), 9, seed=4)
    assert other != mean_of(values)


@pytest.mark.parametrize("wrong", [{"count": 1}, {"resamples": 1}, {"level": 1.0}, {"level": 0.0}])
def test_what_gives_no_interval_is_refused(wrong: dict[str, float]) -> None:
    settings = {"count": 10, "resamples": 10, "level": 0.9} | wrong
    with pytest.raises(ValueError, match=r"at least two examples"):
        jackknife_interval(
            lambda indices: 0.0,
            int(settings["count"]),
            seed=0,
            resamples=int(settings["resamples"]),
            level=settings["level"],
        )
