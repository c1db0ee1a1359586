"""Bars and histograms: no value is lost, edges are round."""

from itertools import pairwise
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_train.reports.charts import Bars, Histogram


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6), max_size=50), st.integers(1, 40))
def test_every_value_is_in_a_bin(values: list[float], max_bins: int) -> None:
    histogram = Histogram.of(values, max_bins=max_bins)
    assert sum(histogram.counts) == len(values)
    assert len(histogram.counts) <= max_bins + 2
    assert len(histogram.ticks) <= 6


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(-5000, 5000), min_size=1, max_size=50))
def test_bins_hold_what_their_edges_say(values: list[int]) -> None:
    histogram = Histogram.of(values)
    assert all(edge == int(edge) for edge in histogram.edges)
    assert list(histogram.counts) == [
        sum(low <= value < high for value in values) for low, high in pairwise(histogram.edges)
    ]


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([3, 4, 5], [3, 4, 5, 6]),
        ([0.0], [0, 1]),
        ([0.5, 0.5], [0.5, 0.55]),
        ([0.11, 0.29], [0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.22, 0.24, 0.26, 0.28, 0.3]),
        (range(64, 4097, 64), [*range(0, 4001, 500), 4500]),
    ],
)
def test_edges_are_round(values: list[float], edges: list[float]) -> None:
    np.testing.assert_allclose(Histogram.of(values, max_bins=10).edges, edges, rtol=1e-12)


def test_values_that_are_not_finite_are_counted() -> None:
    histogram = Histogram.of([1, nan, inf, -inf, 2])
    assert (sum(histogram.counts), histogram.left_out) == (2, 3)


def test_only_what_is_nothing_is_not_seen() -> None:
    assert Histogram([0, 1, 100_000], [0, 1, 2, 3]).heights == [0, 2, 100]
    assert [length for _, length, _ in Bars([("a", 0, ""), ("b", 1, ""), ("c", 1e6, "")]).drawn] == ["0", "0.5", "100"]
    assert [length for _, length, _ in Bars([("a", 0, "")]).drawn] == ["0"]


@pytest.mark.parametrize("value", [-1.0, nan, inf])
def test_a_bar_has_a_length(value: float) -> None:
    with pytest.raises(ValueError, match=r"loss.*finite"):
        Bars([("loss", value, "")])
