"""The order of examples: each drawn as often as it should be, one bucket a batch, a function of seed and position alone."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldm_train.data.batches.datamodules import build_pools, compute_repeats
from ldm_train.data.batches.order import ExampleOrder, Pool
from ldm_train.data.cache.index import CacheIndex

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def one_pool_each(sizes: list[int], *, batch_size: int, seed: int = 0) -> ExampleOrder:
    """Buckets of so many examples, numbered on; each example once an epoch."""
    every = torch.arange(sum(sizes)).split(sizes)
    return ExampleOrder([(f"{i}", [Pool(own, len(own))]) for i, own in enumerate(every)], batch_size=batch_size, seed=seed)


def bucket_of(sizes: list[int]) -> Tensor:
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def index_of(buckets: Tensor) -> CacheIndex:
    """An index that says of its entries their bucket alone."""
    none = torch.empty(0)
    return CacheIndex(
        bucket=buckets,
        row=buckets,
        **dict.fromkeys(("caption_ends", "captions", "held_out", "picture", "size", "num_views", "views"), none),
    )


@settings(max_examples=15, deadline=None)
@given(sizes=SIZES, batch_size=st.integers(1, 12), seed=st.integers(0, 3), epochs=st.integers(1, 3))
def test_after_whole_epochs_every_example_was_drawn_as_often(
    sizes: list[int], batch_size: int, seed: int, epochs: int
) -> None:
    """Remainders carry, so that after `batch_size` epochs nothing is left over."""
    order = one_pool_each(sizes, batch_size=batch_size, seed=seed)
    drawn = order(torch.arange(sum(sizes) * batch_size * epochs))
    assert drawn.bincount(minlength=sum(sizes)).tolist() == [batch_size * epochs] * sum(sizes)


@settings(max_examples=15, deadline=None)
@given(sizes=SIZES, batch_size=st.integers(1, 12), epochs=st.integers(1, 5))
def test_at_every_moment_no_bucket_is_more_than_a_batch_behind(sizes: list[int], batch_size: int, epochs: int) -> None:
    """In the middle of an epoch its shuffling may be ahead by that epoch; at its end by less than one batch."""
    order = one_pool_each(sizes, batch_size=batch_size)
    steps = sum(epochs * size // batch_size for size in sizes)
    drawn = order(torch.arange(steps * batch_size))
    counts = bucket_of(sizes)[drawn].bincount(minlength=len(sizes))
    for count, size in zip(counts.tolist(), sizes, strict=True):
        assert epochs * size - batch_size < count <= epochs * size
    times = drawn.bincount(minlength=sum(sizes))
    for bucket in range(len(sizes)):
        own = times[bucket_of(sizes) == bucket]
        assert own.max() - own.min() <= 1, "no example is drawn again before all of its bucket were"


@settings(max_examples=15, deadline=None)
@given(sizes=SIZES, batch_size=st.integers(1, 12))
def test_a_batch_is_of_one_bucket(sizes: list[int], batch_size: int) -> None:
    order = one_pool_each(sizes, batch_size=batch_size)
    buckets = bucket_of(sizes)[order(torch.arange(40 * batch_size))].view(40, batch_size)
    assert (buckets == buckets[:, :1]).all()


@settings(max_examples=15, deadline=None)
@given(sizes=SIZES, batch_size=st.integers(1, 12), cuts=st.lists(st.integers(0, 150), max_size=6), data=st.data())
def test_any_split_into_calls_and_any_order_of_them_gives_the_same(
    sizes: list[int], batch_size: int, cuts: list[int], data: st.DataObject
) -> None:
    whole = one_pool_each(sizes, batch_size=batch_size)(torch.arange(150))
    parts = list(torch.arange(150).tensor_split(sorted(cuts)))
    shuffled = data.draw(st.permutations(parts))
    order = one_pool_each(sizes, batch_size=batch_size)
    for part in shuffled:
        assert torch.equal(order(part), whole[part])
    assert torch.equal(order(torch.arange(149, -1, -1)), whole.flip(0))


def test_seeds_differ_and_so_do_epochs() -> None:
    one, other = (one_pool_each([20, 20], batch_size=4, seed=seed)(torch.arange(80)) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert not torch.equal(one[:40], one[40:])


def test_the_batches_of_all_buckets_are_shuffled() -> None:
    order = one_pool_each([40, 40], batch_size=4)
    buckets = [order.batch(step)[0] for step in range(200)]
    assert Counter(buckets) == {0: 100, 1: 100}
    turns = sum(one != other for one, other in pairwise(buckets))
    assert 75 < turns < 130, "about every second time, as at random"


def test_a_bucket_smaller_than_a_batch_waits_until_its_draws_make_one() -> None:
    order = one_pool_each([1, 100], batch_size=10)
    drawn = order(torch.arange(101 * 10)).view(-1, 10)
    rare = drawn == 0
    assert rare.sum() == 10
    assert rare.any(1).sum() == 1, "all in one batch, in ten epochs"


def test_a_late_position_costs_no_more_than_an_early_one() -> None:
    order = one_pool_each([3] * 50, batch_size=64)
    late = order(torch.arange(10**12, 10**12 + 64))
    assert len(bucket_of([3] * 50)[late].unique()) == 1


POOLS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 30)), min_size=1, max_size=3)


@settings(max_examples=15, deadline=None)
@given(buckets=st.lists(POOLS, min_size=1, max_size=3), batch_size=st.integers(1, 9))
def test_each_pool_gets_its_draws_and_shares_them_out_equally(buckets: list[list[tuple[int, int]]], batch_size: int) -> None:
    made, start = [], 0
    for number, sizes in enumerate(buckets):
        made.append((f"{number}", [Pool(torch.arange(s, s + n), per_epoch) for s, n, per_epoch in _starts(sizes, start)]))
        start += sum(n for n, _ in sizes)
    order = ExampleOrder(made, batch_size=batch_size, seed=0)
    drawn = order(torch.arange(batch_size * sum(pool.per_epoch for _, some in made for pool in some)))
    counts = drawn.bincount(minlength=start)
    for pool in (pool for _, some in made for pool in some):
        own = counts[pool.examples]
        assert own.sum() == pool.per_epoch * batch_size
        assert own.max() - own.min() <= 1


def _starts(sizes: list[tuple[int, int]], start: int) -> list[tuple[int, int, int]]:
    found = []
    for n, per_epoch in sizes:
        found.append((start, n, per_epoch))
        start += n
    return found


SETS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=40), min_size=2, max_size=3)


@settings(max_examples=40, deadline=None)
@given(sets=SETS, data=st.data(), kind=st.sampled_from(["repeats", "shares"]))
def test_data_sets_get_their_share_within_rounding(sets: list[list[int]], data: st.DataObject, kind: str) -> None:
    """Whatever their buckets: one rounding for a data set, not one for each of its buckets."""
    given_ = data.draw(st.lists(st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.0, 2.5]), min_size=len(sets), max_size=len(sets)))
    counts = [len(buckets) for buckets in sets]
    index = index_of(torch.tensor([bucket for buckets in sets for bucket in buckets]))
    train = list(torch.arange(sum(counts)).split(counts))
    factors = compute_repeats(counts, given_ if kind == "repeats" else None, given_ if kind == "shares" else None)
    drawn = [0] * len(sets)
    for _, some in build_pools(index, train, factors):
        for pool in some:
            owner = next(n for n, own in enumerate(train) if int(pool.examples[0]) in own)
            drawn[owner] += pool.per_epoch
    assert drawn == pytest.approx([f * n for f, n in zip(factors, counts, strict=True)], abs=1)


def test_many_small_buckets_do_not_add_up_to_another_share() -> None:
    index = index_of(torch.arange(100).repeat(2))
    train = [torch.arange(100), torch.arange(100, 200)]
    every = [pool for _, some in build_pools(index, train, [0.1, 1.0]) for pool in some]
    assert sum(pool.per_epoch for pool in every if pool.examples[0] < 100) == pytest.approx(10, abs=1)


def test_a_data_set_repeated_no_times_is_left_out() -> None:
    index = index_of(torch.tensor([0, 1, 1, 0]))
    found = build_pools(index, [torch.tensor([0, 1]), torch.tensor([2, 3])], [0.0, 2.0])
    assert {int(example) for _, some in found for pool in some for example in pool.examples} == {2, 3}


@pytest.mark.parametrize(
    ("repeats", "shares", "reported"),
    [
        ([1], None, "cache_repeats=\\[1\\] must be a list of 2 numbers of at least 0"),
        ([1, -1], None, "repeats"),
        ([0, 0], None, "repeats"),
        (None, [1, 1, 1], "shares"),
        ([1, 1], [0.5, 0.5], "cache_repeats or cache_shares, not both"),
        ([], None, "repeats"),
        ([float("nan"), 1], None, "repeats"),
        (None, [float("inf"), 1], "shares"),
    ],
)
def test_what_is_no_number_for_each_is_refused(
    repeats: list[float] | None, shares: list[float] | None, reported: str
) -> None:
    with pytest.raises(ValueError, match=reported):
        compute_repeats([3, 4], repeats, shares)


def test_shares_are_of_an_epoch_as_long_as_all_examples() -> None:
    factors = compute_repeats([10, 30], None, [0.8, 0.2])
    assert [f * n for f, n in zip(factors, [10, 30], strict=True)] == pytest.approx([32, 8])
    assert compute_repeats([10, 30], None, None) == [1.0, 1.0]
