"""What watches a run takes no more examples at once than training does, and measures the same whatever it takes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm_train.commands.evaluate.command import MOST_AT_ONCE
from ldm_train.networks.unet import UNet
from ldm_train.run_dir.reading import read_run
from ldm_train.training.callbacks.picture_grids import draw_in_passes
from ldm_train.util.memory import count_at_once

OFTEN = ["max_steps=4", "batch_size=4", "validation.every=4", "pictures.every=4", "guidance.scale=1", "metrics.every=4"]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Whether a network's pass is of training, and its examples, of each pass that is made."""
    seen: list[tuple[bool, int]] = []
    forward = UNet.forward

    def watched(self: UNet, x_t: Tensor, *rest: object) -> Tensor:
        seen.append((self.training, len(x_t)))
        return forward(self, x_t, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(UNet, "forward", watched)
    return seen


def test_watching_takes_as_many_as_training(
    cache: Path, train: Callable, passes: list[tuple[bool, int]], tmp_path: Path
) -> None:
    measured = []
    for size in (1, 2):
        passes.clear()
        run_dir = tmp_path / f"run-{size}"
        words = [*OFTEN, f"micro_batch_size={size}", "metrics.count=4", "metrics.steps=2", "clip_score=null"]
        answer = train(cache, run_dir, *words)
        assert answer.code == 0, answer.err
        assert {count for training, count in passes if training} == {size}
        assert max(count for training, count in passes if not training) == size
        measured.append(read_run(run_dir).series["validation_loss"].last)
    assert measured[0] == pytest.approx(measured[1], rel=1e-4)
    passes.clear()
    own = train(cache, tmp_path / "own", *OFTEN, "micro_batch_size=1", "validation.batch_size=3", "pictures.prompts=[]")
    assert own.code == 0, own.err
    assert max(count for training, count in passes if not training) == 3


def test_evaluating_takes_no_more_than_the_run_took(
    cache: Path, train: Callable, ldm_train: Callable, passes: list[tuple[bool, int]], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    assert train(cache, run_dir, "max_steps=2", "batch_size=4", "micro_batch_size=2", "pictures.prompts=[]").code == 0
    for words, most in (([], 2), (["batch_size=3"], 3)):
        passes.clear()
        out = tmp_path / f"measured-{most}.json"
        answer = ldm_train("evaluate", f"run_dir={run_dir}", "features=null", f"out={out}", "device=cpu", *words)
        assert answer.code == 0, answer.err
        assert max(count for _, count in passes) == most


def test_large_pictures_are_drawn_in_small_numbers() -> None:
    assert [count_at_once(side, side, most=MOST_AT_ONCE) for side in (64, 512, 1024, 4096)] == [MOST_AT_ONCE, 4, 1, 1]


@pytest.mark.parametrize(("count", "at_once", "most", "calls"), [(5, 2, 5, 3), (5, 9, 5, 1), (1, 2, 6, 3), (3, 3, 0, 1)])
def test_every_rank_makes_as_many_passes(count: int, at_once: int, most: int, calls: int) -> None:
    made: list[tuple[int, int]] = []

    def draw(start: int, end: int) -> Tensor:
        made.append((start, end))
        return torch.arange(start, end)

    assert draw_in_passes(draw, count, at_once=at_once, most=most).tolist() == list(range(count))
    assert len(made) == calls
    assert all(0 < end - start <= at_once for start, end in made)
