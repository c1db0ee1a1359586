"""Timesteps of training: in range, uniform in the mean, and a function of the position alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train.diffusion.timesteps import Stratified, Uniform

BOTH = pytest.mark.parametrize("timesteps", [Uniform(), Stratified()], ids=["uniform", "stratified"])


@BOTH
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), num_steps=st.integers(1, 1000), batch_size=st.integers(1, 20))
def test_they_lie_from_1_to_num_steps(timesteps, seed, num_steps, batch_size):
    t = timesteps(torch.arange(batch_size), num_steps=num_steps, seed=seed, batch_size=batch_size)
    assert t.dtype == torch.int64
    assert 1 <= t.min() <= t.max() <= num_steps


@BOTH
@pytest.mark.parametrize("rows", [1, 3, 12])
def test_a_global_batch_split_any_way_gets_the_same(timesteps, rows):
    positions = torch.arange(24)
    kwargs = {"num_steps": 1000, "seed": 0, "batch_size": 12}
    parts = torch.cat([timesteps(part, **kwargs) for part in positions.split(rows)])
    assert_close(parts, timesteps(positions, **kwargs))


@BOTH
def test_all_are_equally_likely(timesteps):
    t = timesteps(torch.arange(2000), num_steps=4, seed=0, batch_size=8)
    shares = torch.bincount(t, minlength=5)[1:] / len(t)
    assert_close(shares, torch.full((4,), 0.25), rtol=0, atol=0.05)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), step=st.integers(0, 1000), batch_size=st.integers(1, 16))
def test_a_stratified_batch_has_one_in_every_stratum(seed, step, batch_size):
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    quantiles = Stratified().quantiles(positions, seed=seed, batch_size=batch_size)
    start = quantiles.min()
    assert start < 1 / batch_size
    assert_close(quantiles.sort().values - start, torch.arange(batch_size, dtype=torch.float64) / batch_size)


@BOTH
def test_batches_and_seeds_differ(timesteps):
    first, second, reseeded = (
        timesteps(torch.arange(8) + start, num_steps=1000, seed=seed, batch_size=8)
        for start, seed in [(0, 0), (8, 0), (0, 1)]
    )
    assert not torch.equal(first, second)
    assert not torch.equal(first, reseeded)
