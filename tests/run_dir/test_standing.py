"""Where a run stands: the furthest step that was logged or saved; what can be compared; what training says at its end."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ldm_train.commands.report.run_curves import ReportedRun, plot_losses, plot_validation
from ldm_train.commands.runs.command import build_table
from ldm_train.reports.curves import CurveLine
from ldm_train.run_dir.reading import read_run
from ldm_train.run_dir.run_state import state_of
from tests.run_dir.run_directories import MAX_STEPS, write_lines, write_run, write_starts


def saved_at(run: Path, step: object) -> Path:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"saved_step": step}))
    return run


def test_a_checkpoint_beyond_the_last_logged_step_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for name in ("metrics.jsonl", "timing.jsonl"):
        write_lines(run / name, {"step": 1, "loss": 1.0})
    write_starts(run, {"time": "2026-01-01T12:40:00+00:00", "step": 1, "as": "interrupted (max_time)"})
    found = read_run(saved_at(run, 9))
    assert (found.step, found.saved) == (9, 9)
    assert f"step 9 of {MAX_STEPS}" in state_of(found).text
    assert read_run(saved_at(run, "9")).step == 1
    assert read_run(saved_at(run, -3)).saved is None


def test_a_run_that_was_killed_says_what_it_goes_on_from(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_lines(run / "metrics.jsonl", {"step": 250, "loss": 1.0})
    write_lines(run / "timing.jsonl")
    write_starts(run, None)
    text = state_of(read_run(saved_at(run, 200))).text
    assert "step 250" in text
    assert "step 200" in text


def test_what_ends_a_run_records_the_step_of_its_checkpoint(
    cache: Path, train: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    run_dir = tmp_path / "a run"
    words = ["max_steps=7", "checkpoint.every=3", "trainer.log_every_n_steps=50", "pictures.every=7"]
    answer = train(cache, run_dir, *words)
    assert answer.code == 0, answer.err
    record = json.loads((run_dir / "run.json").read_text())
    assert (record["saved_step"], record["starts"][0]["ended"]["step"]) == (7, 7)
    loss = read_run(run_dir).series["validation_loss"]
    assert f"validation loss {loss.last:.4f}" in answer.out
    assert str(run_dir / "samples") in answer.out
    assert str(run_dir / "tensorboard") in answer.out
    line = next(line for line in answer.out.splitlines() if "ldm-train report" in line)
    assert ldm_train(*shlex.split(line.partition("ldm-train ")[2])).code == 0
    assert (run_dir / "report.html").is_file()


@pytest.mark.parametrize(
    ("values", "dotted"),
    [([1.0], True), ([1.0, 2.0], False), ([np.nan, 1.0, np.nan, 2.0, 3.0], True), ([np.nan], False), ([1.0, np.nan], True)],
)
def test_a_point_without_a_neighbour_is_marked(values: list[float], dotted: bool) -> None:
    assert CurveLine("a", np.arange(len(values), dtype=np.float64), np.array(values)).is_dotted is dotted


@pytest.mark.parametrize(
    ("words", "measure"), [("prediction=velocity", "validation noise mse"), ("optimizer.lr=1e-3", "validation loss")]
)
def test_losses_of_different_targets_are_not_compared(words: str, measure: str, tmp_path: Path, ldm_train: Callable) -> None:
    paths = [write_run(tmp_path / "runs/a"), write_run(tmp_path / "runs/b", words)]
    runs = [read_run(path) for path in paths]
    headers = [str(column.header) for column in build_table(runs).columns]
    assert [header for header in headers if header.startswith("validation")] == [measure]
    differ = measure == "validation noise mse"
    listed = ldm_train("runs", tmp_path / "runs")
    assert ("Velocity" in listed.err) is differ
    reported = [ReportedRun(name, run, i, False) for i, (name, run) in enumerate(zip("ab", runs, strict=True))]
    notes = [plot_losses(reported).plots[0].note, plot_validation(reported).plots[0].note]
    assert ["Velocity" in note for note in notes] == [differ, differ]
    report = ldm_train("report", f"run_dir=[{paths[0]},{paths[1]}]", f"out={tmp_path / 'page.html'}")
    assert report.code == 0, report.err
    assert f"best {measure}" in (tmp_path / "page.html").read_text()
