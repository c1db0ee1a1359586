"""The same (seed, stream, position) gives the same numbers, however a run is divided."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train import draws

FROZEN = torch.tensor([[0.6380085, 0.6097554, 0.0372843]])


@pytest.mark.parametrize("draw", [draws.normal, draws.uniform])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_batch_split_any_way_gets_the_same_numbers(draw, size):
    positions = torch.arange(100, 108)
    whole = draw(0, "noise", positions, (2, 3))
    parts = torch.cat([draw(0, "noise", part, (2, 3)) for part in positions.split(size)])
    assert_close(parts, whole, rtol=0, atol=0)


def test_numbers_follow_their_position_not_their_row():
    positions = torch.tensor([5, 2, 9])
    shuffled = torch.tensor([2, 0, 1])
    drawn = draws.normal(0, "noise", positions, (4,))
    assert_close(draws.normal(0, "noise", positions[shuffled], (4,)), drawn[shuffled], rtol=0, atol=0)


@pytest.mark.parametrize(("seed", "stream", "position"), [(1, "noise", 0), (0, "posterior", 0), (0, "noise", 1)])
def test_each_part_of_the_key_gives_other_numbers(seed, stream, position):
    base = draws.normal(0, "noise", torch.tensor([0]), (8,))
    assert not torch.isclose(draws.normal(seed, stream, torch.tensor([position]), (8,)), base).any()


def test_numbers_are_frozen():
    """A run of an older version can be repeated: the key's hash and the generator stay what they were."""
    assert_close(draws.uniform(7, "frozen", torch.tensor([3]), (3,)), FROZEN, rtol=0, atol=1e-7)


def test_nothing_touches_the_global_generator():
    state = torch.get_rng_state()
    draws.normal(0, "noise", torch.arange(4), (2,))
    draws.order(0, torch.arange(4), 3)
    assert_close(torch.get_rng_state(), state, rtol=0, atol=0)


def test_streams_and_positions_are_uncorrelated():
    positions = torch.arange(500)
    rows = torch.stack([draws.normal(0, stream, positions, ()) for stream in ("noise", "posterior")])
    rows = torch.cat([rows, rows[:1].roll(1, dims=1)])
    assert_close(torch.corrcoef(rows), torch.eye(3), rtol=0, atol=5 / 500**0.5)


@pytest.mark.parametrize(("draw", "mean", "std"), [(draws.normal, 0.0, 1.0), (draws.uniform, 0.5, 12**-0.5)])
def test_moments(draw, mean, std):
    numbers = draw(0, "moments", torch.arange(50), (200,))
    assert_close(numbers.mean(), torch.tensor(mean), rtol=0, atol=0.05)
    assert_close(numbers.std(), torch.tensor(std), rtol=0.05, atol=0)


def test_uniform_is_below_one():
    numbers = draws.uniform(0, "range", torch.arange(50), (200,))
    assert numbers.min() >= 0
    assert numbers.max() < 1


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**40), size=st.integers(1, 40), epoch=st.integers(0, 50))
def test_every_epoch_shows_every_example_once(seed, size, epoch):
    shown = draws.order(seed, torch.arange(epoch * size, (epoch + 1) * size), size)
    assert_close(shown.sort().values, torch.arange(size))


def test_epochs_differ_and_seeds_differ():
    first, second = draws.order(0, torch.arange(80), 40).chunk(2)
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(40))
    assert not torch.equal(first, draws.order(1, torch.arange(40), 40))


@pytest.mark.parametrize("batch_size", [1, 7, 30])
def test_order_does_not_depend_on_the_batches_even_across_epochs(batch_size):
    positions = torch.arange(30)
    parts = torch.cat([draws.order(3, part, 10) for part in positions.split(batch_size)])
    assert_close(parts, draws.order(3, positions, 10))
