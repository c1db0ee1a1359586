"""Timesteps of training: as distributed as they say, and a function of the position alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine, linear
from ldm_train.diffusion.timesteps import LogitNormal, LogNormal, Uniform
from tests.pairwise import parametrize_pairs

SCHEDULES = {
    "table": linear(),
    "continuous": cosine(discrete=False),
    "flow": RectifiedFlow(),
    "flow-shifted": RectifiedFlow(shift=3.0),
    "edm": EDM(),
}
KINDS = {"uniform": Uniform, "logit-normal": LogitNormal, "log-normal": LogNormal}
EVERY = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
EACH = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
EITHER = pytest.mark.parametrize("stratified", [True, False], ids=["stratified", "independent"])
PARAMETERS = [
    pytest.param(Uniform, {}, id="uniform"),
    pytest.param(LogitNormal, {}, id="logit-normal"),
    pytest.param(LogitNormal, {"mean": 0.5, "std": 0.6}, id="logit-normal-moved"),
    pytest.param(LogNormal, {}, id="log-normal"),
    pytest.param(LogNormal, {"mean": 0.4, "std": 1.0}, id="log-normal-moved"),
]


def normal_cdf(z):
    return torch.erfc(-z / math.sqrt(2)) / 2


def cdf(kind, parameters, schedule, t):
    """The share of draws that lie at t or below, from the distributions' definitions."""
    mean, std = (parameters.get(name, default) for name, default in (("mean", 0.0), ("std", 1.0)))
    if kind is LogNormal:
        mean, std = (parameters.get(name, default) for name, default in (("mean", -1.2), ("std", 1.2)))
        # A real t is brought to the nearest whole one of a table, and into what is trained on.
        edge = t + 0.5 if schedule.discrete else t
        share = normal_cdf((schedule.ratio(edge).log() - mean) / std)
        return torch.where(t >= schedule.end, 1.0, share)
    first = 0 if schedule.discrete else schedule.start
    if isinstance(schedule, EDM):  # even in ln(sigma)
        place = (t / first).log() / math.log(schedule.end / first)
    else:
        place = (t - first) / (schedule.end - first)
    return place if kind is Uniform else normal_cdf((place.logit() - mean) / std)


def draw(timesteps, schedule, count, batch_size):
    return timesteps(torch.arange(count), schedule=schedule, seed=0, batch_size=batch_size)


@pytest.mark.parametrize(("kind", "parameters"), PARAMETERS)
@EVERY
def test_they_follow_their_distribution(kind, parameters, schedule):
    """By Kolmogorov's test: a distance of 1.95 / sqrt(n) has a probability of 0.001; that of strata is at most 1 / n."""
    count = 2000
    independent, strata = (
        draw(kind(**parameters, stratified=stratified), schedule, count, count).double().sort().values
        for stratified in (False, True)
    )
    # At ties the empirical distribution steps up at the last.
    for drawn, limit in ((independent, 1.95 / math.sqrt(count)), (strata, 1 / count + 1e-6)):
        points, counts = drawn.unique(return_counts=True)
        empirical = counts.cumsum(0) / count
        assert (empirical - cdf(kind, parameters, schedule, points)).abs().max() < limit


@pytest.mark.parametrize(("kind", "parameters"), PARAMETERS)
@pytest.mark.parametrize(
    "schedule", [s for s in SCHEDULES.values() if not s.discrete], ids=[n for n in SCHEDULES if n != "table"]
)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(quantile=st.floats(0.01, 0.99))
def test_quantiles_undo_the_distribution(kind, parameters, schedule, quantile):
    t = kind(**parameters).t_at_quantiles(torch.tensor([quantile], dtype=torch.float64), schedule)
    if schedule.start < t.item() < schedule.end:  # elsewhere they were brought to these
        assert_close(cdf(kind, parameters, schedule, t).item(), quantile, rtol=0, atol=1e-9)


@EACH
@EITHER
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), num_steps=st.integers(1, 1000), batch_size=st.integers(1, 20))
def test_on_a_table_they_lie_from_1_to_num_steps(kind, stratified, seed, num_steps, batch_size):
    timesteps, schedule = kind(stratified=stratified), linear(num_steps=num_steps)
    t = timesteps(torch.arange(batch_size), schedule=schedule, seed=seed, batch_size=batch_size)
    assert t.dtype == torch.float64
    assert t.frac().eq(0).all()
    assert 1 <= t.min() <= t.max() <= num_steps


@EACH
@EVERY
def test_the_ends_of_the_draws_are_trained_on(kind, schedule):
    """A uniform number of exactly 0, and the last below 1."""
    t = kind().t_at_quantiles(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), schedule)
    assert schedule.start <= t[0] <= t[1] <= schedule.end


@parametrize_pairs(
    kind=KINDS,
    stratified={"stratified": True, "independent": False},
    schedule=SCHEDULES,
    rows={"1": 1, "3": 3, "12": 12},
)
def test_a_global_batch_split_any_way_gets_the_same(kind, stratified, schedule, rows):
    positions = torch.arange(24)
    timesteps, kwargs = kind(stratified=stratified), {"schedule": schedule, "seed": 0, "batch_size": 12}
    parts = torch.cat([timesteps(part, **kwargs) for part in positions.split(rows)])
    assert_close(parts, timesteps(positions, **kwargs), rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "parameters"), PARAMETERS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), step=st.integers(0, 1000), batch_size=st.integers(1, 16))
def test_a_stratified_batch_has_one_in_every_stratum(kind, parameters, seed, step, batch_size):
    """Of equal probability under the distribution, all at the same place in it."""
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    schedule = RectifiedFlow()
    t = kind(**parameters)(positions, schedule=schedule, seed=seed, batch_size=batch_size)
    quantiles = cdf(kind, parameters, schedule, t.clamp_max(1 - 1e-12)).sort().values
    start, inside = quantiles.min(), (t > schedule.start) & (t < schedule.end)
    if inside.all():  # a log-normal draw beyond the ends was brought to them
        assert start < 1 / batch_size
        expected = torch.arange(batch_size, dtype=torch.float64) / batch_size
        assert_close(quantiles - start, expected, rtol=0, atol=1e-6)


@EACH
@EITHER
def test_batches_and_seeds_differ(kind, stratified):
    first, second, reseeded = (
        kind(stratified=stratified)(torch.arange(8) + start, schedule=linear(), seed=seed, batch_size=8)
        for start, seed in [(0, 0), (8, 0), (0, 1)]
    )
    assert not torch.equal(first, second)
    assert not torch.equal(first, reseeded)


@pytest.mark.parametrize("kind", [LogitNormal, LogNormal])
@pytest.mark.parametrize("std", [0.0, -1.0])
def test_a_deviation_must_be_positive(kind, std):
    with pytest.raises(ValueError, match=rf"timesteps\.std={std:g} must be above 0"):
        kind(std=std)


@EVERY
@EACH
@EITHER
def test_a_part_of_the_distribution_is_drawn_between_its_quantiles(kind, stratified, schedule):
    drawn = draw(kind(stratified=stratified, quantiles=[0.25, 0.5]), schedule, 400, 8)
    low, high = kind().t_at_quantiles(torch.tensor([0.25, 0.5], dtype=torch.float64), schedule)
    assert low <= drawn.min() < drawn.max() <= high


@pytest.mark.parametrize("quantiles", [[0.5, 0.5], [0.6, 0.4], [-0.1, 1], [0, 1.1], [0.5], [0, 0.5, 1], [math.nan, 1]])
def test_quantiles_that_are_no_part_are_refused(quantiles):
    with pytest.raises(ValueError, match=r"timesteps\.quantiles"):
        Uniform(quantiles=quantiles)
