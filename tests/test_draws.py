"""The same (seed, stream, position) gives the same numbers, however a run is divided."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train import draws

FROZEN = torch.tensor([[0.6380085, 0.6097554, 0.0372843]])
FROZEN_SINGLE = [14547027, 12099013]
FROZEN_ORDER = [3, 0, 0, 4, 1, 2, 3, 0]


def order(seed, positions, size):
    """Afresh, without the permutations of an earlier call."""
    return draws.Shuffle(seed, "order", size)(positions)


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


def test_single_numbers_are_frozen():
    """Each is the upper 24 bits of the key's hash."""
    assert (draws.uniform(7, "frozen", torch.tensor([3, 2**40])) * 2**24).tolist() == FROZEN_SINGLE


def test_the_order_is_frozen():
    assert order(7, torch.arange(8, 16), 5).tolist() == FROZEN_ORDER


def test_nothing_touches_the_global_generator():
    state = torch.get_rng_state()
    draws.normal(0, "noise", torch.arange(4), (2,))
    draws.uniform(0, "noise", torch.arange(4))
    order(0, torch.arange(4), 3)
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


def single(seed=0, stream="single", start=0):
    """20,000 single numbers."""
    return draws.uniform(seed, stream, torch.arange(start, start + 20_000))


def chi_square(counts):
    """In standard deviations from what equal chances give; about normal for many cells."""
    cells, expected = counts.numel(), counts.sum() / counts.numel()
    return (((counts - expected).square() / expected).sum() - (cells - 1)) / (2 * (cells - 1)) ** 0.5


def test_single_numbers_follow_their_position_whatever_the_batch():
    positions = torch.tensor([7, 0, 2**45, 3])
    whole = draws.uniform(1, "single", positions)
    assert whole.shape == (4,)
    assert whole.dtype == torch.float32
    parts = torch.cat([draws.uniform(1, "single", part, torch.Size([])) for part in positions.flip(0).split(1)])
    assert_close(parts, whole.flip(0), rtol=0, atol=0)
    assert draws.uniform(1, "single", positions[:0]).shape == (0,)


@pytest.mark.parametrize("start", [0, 10**9])
@pytest.mark.parametrize("stream", ["flip", "caption", "timestep"])
def test_single_numbers_are_uniform(stream, start):
    """Kolmogorov's statistic, at a chance of one in a thousand."""
    numbers = single(stream=stream, start=start).double().sort().values
    steps = torch.arange(20_001) / 20_000
    distance = torch.maximum((steps[1:] - numbers).max(), (numbers - steps[:-1]).max())
    assert distance * 20_000**0.5 < 1.95
    assert numbers[0] >= 0
    assert numbers[-1] < 1


@pytest.mark.parametrize("shift", [0, 8, 16])
def test_all_bits_of_single_numbers_are_used_evenly(shift):
    bits = (single() * 2**24).long()
    assert abs(chi_square(torch.bincount((bits >> shift) & 255, minlength=256).double())) < 4


@pytest.mark.parametrize(
    "other",
    [{"start": 1}, {"start": 2}, {"start": 1000}, {"seed": 1}, {"seed": 10}, {"stream": "singles"}, {"stream": "single/0"}],
    ids=str,
)
def test_single_numbers_are_independent_across_positions_seeds_and_streams(other):
    """Pairs fall evenly on a board of 16 by 16."""
    cells = (single() * 16).long() * 16 + (single(**other) * 16).long()
    assert abs(chi_square(torch.bincount(cells, minlength=256).double())) < 4


def test_the_largest_hash_is_below_one(monkeypatch):
    monkeypatch.setattr(draws, "_hash", lambda seed, stream, position: 2**64 - 1)
    assert draws.uniform(0, "largest", torch.tensor([0])).item() == 1 - 2**-24


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**40), size=st.integers(1, 40), epoch=st.integers(0, 50))
def test_every_epoch_shows_every_example_once(seed, size, epoch):
    shown = order(seed, torch.arange(epoch * size, (epoch + 1) * size), size)
    assert_close(shown.sort().values, torch.arange(size))


def test_epochs_differ_and_seeds_differ():
    first, second = order(0, torch.arange(80), 40).chunk(2)
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(40))
    assert not torch.equal(first, order(1, torch.arange(40), 40))


@pytest.mark.parametrize("batch_size", [1, 7, 30])
def test_order_does_not_depend_on_the_batches_even_across_epochs(batch_size):
    positions = torch.arange(30)
    parts = torch.cat([order(3, part, 10) for part in positions.split(batch_size)])
    assert_close(parts, order(3, positions, 10))


def test_order_does_not_depend_on_what_was_asked_before():
    shuffle = draws.Shuffle(3, "order", 10)
    for positions in (torch.arange(95, 105), torch.arange(10), torch.arange(200).flip(0), torch.tensor([57, 3, 57, 199])):
        assert_close(shuffle(positions), torch.cat([order(3, position, 10) for position in positions.split(1)]))
