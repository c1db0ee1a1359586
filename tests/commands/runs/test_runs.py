"""The list of runs below a folder: found, compared, sorted, as a table and as JSON."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from ldm_train.commands.runs.command import find_run_dirs, print_table
from ldm_train.run_dir.reading import read_runs
from tests.run_dir.run_directories import FINISHED, write_lines, write_run, write_starts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three runs at two depths, next to what is none."""
    write_run(tmp_path / "runs/b", "optimizer.lr=2e-3")
    write_run(tmp_path / "runs/sweep/a", seed=1)
    write_run(tmp_path / "runs/sweep/c", seed=2)
    for run, step, loss, began in (("b", 300, 0.3, 2), ("sweep/a", 100, 0.2, 1), ("sweep/c", 200, 0.5, 3)):
        place = tmp_path / "runs" / run
        write_lines(place / "metrics.jsonl", {"step": 50, "validation_loss": 0.9}, {"step": step, "validation_loss": loss})
        write_lines(place / "timing.jsonl", {"step": step, "samples_per_second": step / 3})
        write_starts(place, {**FINISHED, "as": "interrupted (SIGTERM)"})
        record = json.loads((place / "run.json").read_text())
        record["starts"][0]["time"] = f"2026-01-0{began}T12:00:00+00:00"
        (place / "run.json").write_text(json.dumps(record))
    (tmp_path / "runs/other").mkdir()
    (tmp_path / "runs/other/config.yaml").write_text("a: 1")
    write_run(tmp_path / "runs/b/checkpoints/hidden")
    return tmp_path / "runs"


def names(answer: str) -> list[str]:
    return [Path(run["run_dir"]).name for run in json.loads(answer)]


@pytest.mark.parametrize("words", [["{folder}"], ["dir={folder}"], ["{folder}", "sort=name"]])
def test_the_folder_may_be_a_word_of_its_own(words: list[str], folder: Path, ldm_train: Callable) -> None:
    answer = ldm_train("runs", *(word.format(folder=folder) for word in words))
    assert answer.code == 0, answer.err
    rows = [line.split() for line in answer.out.splitlines()]
    assert sorted(row[0] for row in rows[1:]) == ["b", "sweep/a", "sweep/c"]
    row = next(row for row in rows if row[0] == "b")
    assert row[1] == "interrupted"
    assert "300/400" in row
    assert "optimizer.lr=0.002," in row
    assert "\x1b" not in answer.out


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("started", ["c", "b", "a"]),
        ("name", ["b", "a", "c"]),
        ("step", ["b", "c", "a"]),
        ("speed", ["b", "c", "a"]),
        ("validation_loss", ["a", "b", "c"]),
    ],
)
def test_runs_are_sorted(sort: str, order: list[str], folder: Path, ldm_train: Callable) -> None:
    answer = ldm_train("runs", folder, f"sort={sort}", "format=json")
    assert names(answer.out) == order


def test_the_highest_of_what_is_better_high_comes_first_and_who_lacks_it_last(folder: Path, ldm_train: Callable) -> None:
    for run, value in (("b", 0.2), ("sweep/c", 0.7)):
        write_lines(folder / run / "metrics.jsonl", {"step": 9, "metrics/retrieval_at_1": value})
    answer = ldm_train("runs", folder, "sort=retrieval_at_1", "format=json")
    assert names(answer.out) == ["c", "b", "a"]


def test_json_holds_all_of_it(folder: Path, ldm_train: Callable) -> None:
    answer = ldm_train("runs", folder, "format=json", "sort=name")
    run = json.loads(answer.out)[0]
    assert run == {
        "run_dir": str(folder / "b"),
        "state": "interrupted",
        "message": "Interrupted (SIGTERM), at step 300 of 400",
        "step": 300,
        "saved_step": None,
        "max_steps": 400,
        "samples_per_second": 100.0,
        "started": "2026-01-02T12:00:00+00:00",
        "starts": 1,
        "metrics": {"validation_loss": {"last": 0.3, "best": 0.3, "best_step": 300}},
        "differs": {"optimizer.lr": "0.002", "seed": "0"},
    }


def test_a_run_that_is_going_on_is_running(folder: Path, ldm_train: Callable) -> None:
    with FileLock(folder / "b/.lock"):
        states = {
            Path(run["run_dir"]).name: run["state"] for run in json.loads(ldm_train("runs", folder, "format=json").out)
        }
    assert states == {"a": "interrupted", "b": "running", "c": "interrupted"}


def test_a_run_that_cannot_be_read_is_reported_and_passed_over(folder: Path, ldm_train: Callable) -> None:
    (folder / "sweep/a/config.yaml").write_text("a: [1")
    answer = ldm_train("runs", folder, "format=json", "sort=name")
    assert names(answer.out) == ["b", "c"]
    assert "sweep/a/config.yaml cannot be read" in answer.err


@pytest.mark.parametrize("width", [40, 70, 110, 400])
def test_a_table_fits_its_terminal(width: int, folder: Path) -> None:
    out = io.StringIO()
    print_table(read_runs(find_run_dirs(folder))[0], Console(width=width, file=out))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert "optimizer.lr=0.002" in out.getvalue().replace("\n", "").replace(" ", "")


def test_a_folder_that_is_a_run_is_listed(folder: Path, ldm_train: Callable) -> None:
    assert names(ldm_train("runs", folder / "b", "format=json").out) == ["b"]


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        ("{folder}/nowhere", "dir={folder}/nowhere is not a folder"),
        ("{folder}/other", "dir={folder}/other contains no run"),
        ("{folder} sort=validation_los", "sort=validation_los is not known; accepted: started, name"),
        ("{folder} sort=validation_los", "did you mean 'validation_loss'"),
        ("{folder} format=xml", "format=xml is not known; accepted: table, json"),
    ],
)
def test_what_cannot_be_listed_is_refused(words: str, reported: str, folder: Path, ldm_train: Callable) -> None:
    answer = ldm_train("runs", *(word.format(folder=folder) for word in words.split()))
    assert answer.code == 1
    assert reported.format(folder=folder) in answer.err
