"""Checkpoints: what is in one, which are kept, and which is the best."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.testing import assert_close

from ldm_train.training.checkpoints.checkpoint_callback import Checkpoints, Keeping
from ldm_train.training.checkpoints.checkpoint_files import checkpoints, numbered, prune
from ldm_train.training.loggers.jsonl import JsonLines
from tests.training.checkpoints.checkpointed import KEPT, QUIET, assert_same_run, last, lines, load


def test_a_checkpoint_holds_what_is_trained_four_times_and_nothing_that_is_frozen(
    pictures: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    """Raw and averaged weights and the optimizer's two moments, the LR schedule and the position."""
    assert encode(pictures, tmp_path / "cache", "text_encoder.trained=false").code == 0
    assert train(tmp_path / "cache", tmp_path / "run", *QUIET, "max_steps=5", "checkpoint.every=5").code == 0
    checkpoint = load(last(tmp_path / "run"))
    sizes: list[int] = []

    def collect(tree: object) -> None:
        for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ():
            collect(part)
        if isinstance(tree, Tensor) and tree.dim():
            sizes.append(tree.numel())

    collect(checkpoint)
    trained = sum(tensor.numel() for tensor in checkpoint["state_dict"].values())
    assert sum(sizes) == 4 * trained
    assert {name.partition(".")[0] for name in checkpoint["state_dict"]} == {"network"}
    assert checkpoint["global_step"] == checkpoint["lr_schedulers"][0]["last_epoch"] == 5
    assert checkpoint["callbacks"]["EMA"]["updates"] == 5


# Which are kept


@pytest.mark.parametrize(
    ("every", "keep", "keep_every", "expected"),
    [
        (1, 3, None, [6, 7, 8]),
        (2, 2, None, [6, 8]),
        (1, 3, 2, [2, 4, 6, 7, 8]),
        (2, 1, 4, [4, 8]),
        (3, 5, None, [3, 6, 8]),
        (3, 2, 3, [3, 6, 8]),
        (3, 1, None, []),
    ],
)
def test_the_newest_and_those_of_every_so_many_steps_stay(
    every: int, keep: int, keep_every: int | None, expected: list[int], cache: Path, train: Callable, tmp_path: Path
) -> None:
    words = [f"checkpoint.{name}={value}" for name, value in (("every", every), ("keep", keep)) if value]
    words += [] if keep_every is None else [f"checkpoint.keep_every={keep_every}"]
    answer = train(cache, tmp_path / "run", *QUIET, *words)
    assert answer.code == 0, answer.err
    assert {step: load(path)["global_step"] for step, path in numbered(tmp_path / "run").items()} == {s: s for s in expected}
    assert load(last(tmp_path / "run"))["global_step"] == 8
    assert len(list(last(tmp_path / "run").parent.iterdir())) == 1 + len(expected)


@pytest.mark.parametrize("keep", range(5))
@pytest.mark.parametrize("count", range(5))
def test_no_more_are_removed_than_there_are_too_many(keep: int, count: int, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step in range(1, count + 1):
        (tmp_path / f"checkpoints/step-{step:08d}.ckpt").touch()
    prune(tmp_path, keep=keep, keep_every=None)
    assert list(numbered(tmp_path)) == list(range(1, count + 1))[max(0, count - keep) :]


def test_fewer_are_kept_when_fewer_are_asked_for(copied: Path, cache: Path, train: Callable) -> None:
    assert train(cache, copied, *KEPT, "checkpoint.keep=2", "max_steps=7").code == 0
    assert list(numbered(copied)) == [6, 7]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["checkpoint.every=0"], "checkpoint.every=0 must be a whole number of at least 1"),
        (["checkpoint.keep=0"], "checkpoint.keep=0 must be a whole number of at least 1"),
        (["checkpoint.keep_every=5"], "must be a multiple of checkpoint.every=3"),
        (["checkpoint.best_is=nicest"], "checkpoint.best_is=nicest is not known"),
        (["checkpoint.best=time/samples_per_second"], "is of the clock"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    words: list[str], message: str, cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", *words)
    assert answer.code == 1
    assert message in answer.err
    assert not (tmp_path / "run").exists()


# The best


@pytest.mark.parametrize(
    ("best_is", "values", "expected"),
    [
        ("lowest", [3.0, 2.0, 2.0, 4.0], [1, 2, 2, 2]),
        ("highest", [3.0, 5.0, 5.0, 4.0], [1, 2, 2, 2]),
        ("lowest", [math.nan, 2.0, math.nan, 1.0], [None, 2, 2, 4]),
        ("highest", [math.nan, -2.0, math.nan, -1.0], [None, 2, 2, 4]),
        ("lowest", [math.inf, math.inf, 7.0, -math.inf], [None, None, 3, 4]),
        ("highest", [-math.inf, 0.0, math.nan, 0.0], [None, 2, 2, 2]),
    ],
)
def test_the_first_of_the_best_values_is_it_and_no_number_never(
    best_is: Any, values: list[float], expected: list[int | None], tmp_path: Path
) -> None:
    log = JsonLines(tmp_path)
    watching = Checkpoints(tmp_path, Keeping(every=1, best="metric", best_is=best_is), log)
    found = []
    for step, value in enumerate(values, start=1):
        log.latest = {"metric": (step, value), "other": (step, -1e9)}
        watching._is_best(step)
        assert not watching._is_best(step + 1), "a value that was logged before"
        found.append(watching.best_step)
    assert found == expected


def best_step(run_dir: Path, metric: str, choose: Callable) -> int:
    """By the log."""
    found = {
        line[metric]: int(line["step"]) for line in reversed(lines(run_dir)) if math.isfinite(line.get(metric, math.nan))
    }
    return found[choose(found)]


@pytest.mark.parametrize(
    ("best_is", "metric", "choose"),
    [("lowest", "loss", min), ("highest", "loss", max), ("lowest", "validation_loss", min)],
)
def test_the_best_stays_beside_the_last_and_is_the_same_after_a_resume(
    best_is: str,
    metric: str,
    choose: Callable,
    cache: Path,
    train: Callable,
    power_cut: Callable,
    spoiled: Callable,
    tmp_path: Path,
) -> None:
    words = [*QUIET, "checkpoint.every=3", f"checkpoint.best={metric}", f"checkpoint.best_is={best_is}"]
    words += ["validation.every=2"] if metric == "validation_loss" else []
    with spoiled({1, 4}, "loss"):
        assert train(cache, tmp_path / "whole", *words).code == 0
        with power_cut(5):
            train(cache, tmp_path / "cut", *words)
        assert train(cache, tmp_path / "cut", *words).code == 0
    expected = best_step(tmp_path / "whole", metric, choose)
    one, other = (load(tmp_path / name / "checkpoints/best.ckpt") for name in ("whole", "cut"))
    assert one["global_step"] == other["global_step"] == expected
    assert_close(one["state_dict"], other["state_dict"], rtol=0, atol=0)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_another_metric_starts_its_own_comparison(copied: Path, cache: Path, train: Callable) -> None:
    """A rate is far below any loss, which it is not to be compared with."""
    assert train(cache, copied, *KEPT, "checkpoint.best=lr", "max_steps=7").code == 0
    assert load(copied / "checkpoints/best.ckpt")["global_step"] == 7
    assert train(cache, copied, *KEPT, "checkpoint.best=loss", "max_steps=8").code == 0
    assert load(copied / "checkpoints/best.ckpt")["global_step"] == 8


def test_a_metric_that_nothing_logs_is_reported_once_with_those_there_are(
    cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", *KEPT, "checkpoint.best=validation_los")
    assert answer.code == 0
    assert (
        answer.out.count("checkpoint.best=validation_los was not logged up to step 2; there are: grad_norm, loss, lr") == 1
    )


def test_what_a_kill_between_saving_and_keeping_left_undone_is_done(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, power_cut: Callable
) -> None:
    words = [*KEPT, "checkpoint.best=lr"]  # warming up from step 1 on: the first is the lowest
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_keep", lambda *arguments: (_ for _ in ()).throw(OSError("killed")))
        assert train(cache, run_dir, *words).code == 1
    assert [path.name for path in checkpoints(run_dir)] == ["last.ckpt"]
    step = load(last(run_dir))["global_step"]
    with power_cut(step + 1):
        train(cache, run_dir, *words)
    assert load(run_dir / "checkpoints/best.ckpt")["global_step"] == step
    assert step in numbered(run_dir)


def test_what_a_kill_at_the_last_checkpoint_left_undone_is_done(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, keep = tmp_path / "run", Checkpoints._keep

    def die_at_last(callback: Checkpoints, step: int) -> None:
        if step == 8:
            raise OSError("killed")
        keep(callback, step)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_keep", die_at_last)
        assert train(cache, run_dir, *KEPT).code == 1
    assert list(numbered(run_dir)) == [2, 4, 6]
    assert train(cache, run_dir, *KEPT).code == 0
    assert list(numbered(run_dir)) == [4, 6, 8]
