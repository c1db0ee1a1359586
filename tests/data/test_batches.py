"""A run's batches: every position once, on whatever devices and in whatever pieces."""

import re
from itertools import islice

import pytest
import torch
from torch.testing import assert_close

from ldm_train.data.batches.positions import BatchGeometry, RunPositions, build_endless_loader
from ldm_train.types import CaptionBatch, LatentBatch, Moments

DIVISIONS = pytest.mark.parametrize(
    ("world_size", "micro_batch_size"), [(1, None), (2, None), (3, None), (1, 4), (2, 3), (4, 1), (4, 3)]
)


def ranks(world_size, micro_batch_size, *, batch_size=12):
    return [BatchGeometry(batch_size, world_size, rank, micro_batch_size) for rank in range(world_size)]


@DIVISIONS
@pytest.mark.parametrize("step", [0, 5])
def test_ranks_and_micro_batches_share_out_the_global_batch(world_size, micro_batch_size, step):
    pieces = [piece for geometry in ranks(world_size, micro_batch_size) for piece in geometry.positions(step)]
    assert_close(torch.cat(pieces).sort().values, torch.arange(12 * step, 12 * (step + 1)))


@DIVISIONS
def test_rows_and_accumulation_describe_the_pieces(world_size, micro_batch_size):
    geometry = ranks(world_size, micro_batch_size)[-1]
    pieces = list(geometry.positions(0))
    assert [len(piece) for piece in pieces] == [geometry.rows] * geometry.accumulation
    assert geometry.rows == (micro_batch_size or 12 // world_size)


@pytest.mark.parametrize(
    ("batch_size", "world_size", "micro_batch_size"),
    [
        (10, 3, None),
        (2, 3, None),
        (12, 1, 5),
        (12, 2, 4),
        (12, 8, 4),
        (1, 8, None),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused_with_sizes_that_can(batch_size, world_size, micro_batch_size):
    with pytest.raises(ValueError, match=rf"batch_size={batch_size} .* {world_size} device") as error:
        BatchGeometry(batch_size, world_size, 0, micro_batch_size)
    _, sizes = str(error.value).split("the nearest sizes that can:")
    named = [int(number) for number in re.findall(r"\d+", sizes)]
    assert named
    assert all(BatchGeometry(size, world_size, 0, micro_batch_size).batch_size == size for size in named)
    unit = world_size * (micro_batch_size or 1)
    assert min(abs(size - batch_size) for size in named) <= max(unit / 2, unit - batch_size)


@pytest.mark.parametrize("first_step", [0, 1, 7])
def test_a_resumed_run_goes_on_where_it_stopped(first_step):
    geometry = BatchGeometry(6, micro_batch_size=2)
    whole = list(islice(RunPositions(geometry, lambda: 0), 3 * (first_step + 4)))
    resumed = list(islice(RunPositions(geometry, lambda: first_step), 3 * 4))
    assert resumed == whole[3 * first_step :]


def test_the_first_step_is_asked_for_when_iteration_starts():
    step = 0
    positions = RunPositions(BatchGeometry(2), lambda: step)
    step = 3
    assert next(iter(positions)) == [6, 7]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_loader_fetches_whole_micro_batches_in_order(workers):
    loader = build_endless_loader(lambda positions: positions * 10, BatchGeometry(4, 2, 1), lambda: 1, workers=workers)
    batches = list(islice(loader, 3))
    assert_close(torch.stack(batches), torch.tensor([[60, 70], [100, 110], [140, 150]]))


def test_every_tensor_of_a_batch_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a loader asks where there is a GPU: what is left out would be copied while both wait."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)
    moments, captions = Moments(torch.zeros(1), None), CaptionBatch(torch.zeros(1), torch.zeros(1))
    batch = LatentBatch(torch.zeros(1), moments, captions).pin_memory()
    pinned = (batch.positions, batch.moments.mean, batch.captions.tokens, batch.captions.embeddings)
    assert [part is not None and part.item() for part in pinned] == [1, 1, 1, 1]
