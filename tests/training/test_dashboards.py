"""What is logged once is in every dashboard that has a place for it, and no fault of one ends a run."""

import csv
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ldm_train.training.loggers.csv_table import CSVTable
from ldm_train.training.loggers.dashboards import Dashboard
from ldm_train.training.loggers.jsonl import JsonLines
from ldm_train.training.loggers.other_loggers import LightningDashboard, as_dashboard
from ldm_train.training.loggers.tensorboard import TensorBoard, name_card

SETTINGS = {"network": {"channels": [1, 2]}, "seed": 0}


def lines(run_dir: Path, name: str = "metrics.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / name).read_text().splitlines()]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def in_numbers(rows: list[dict[str, str]]) -> list[dict[str, float]]:
    """Without empty cells."""
    return [{name: float(cell) for name, cell in row.items() if cell} for row in rows]


# The table


def test_the_table_is_the_lines(trained: Path) -> None:
    assert in_numbers(read_csv(trained / "metrics.csv")) == lines(trained)


def test_after_a_cut_the_table_is_as_if_there_had_been_none(
    cache: Path, train: Callable, trained: Path, power_cut: Callable, tmp_path: Path
) -> None:
    with power_cut(5):
        train(cache, tmp_path / "run")
    assert train(cache, tmp_path / "run").code == 0
    for name in ("metrics.csv", "tables/update_ratios.csv", "validation.jsonl"):
        assert (tmp_path / "run" / name).read_text() == (trained / name).read_text()


def test_a_column_comes_with_its_metric(tmp_path: Path) -> None:
    jsonl, table = JsonLines(tmp_path), CSVTable(tmp_path)
    table.begin(SETTINGS, None)
    for step, values in enumerate(({"a": 1.0}, {"a": 2.0}, {"a": 3.0, "b": 0.5}, {"b": 0.25}), start=1):
        jsonl.scalars(values, step)
        jsonl.save()
        table.flush()
        assert in_numbers(read_csv(tmp_path / "metrics.csv")) == lines(tmp_path)
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "step,a,b"


# JSON lines


def test_lines_wait_for_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """One that was half written is taken back; a checkpoint, whose past they are, is refused until they are written."""
    jsonl, full = JsonLines(tmp_path), True
    write_text = Path.open

    def opened(path: Path, mode: str = "r", **more: Any) -> Any:
        file = write_text(path, mode, **more)
        if full and mode == "a":
            file.write("{half a li")
            file.close()
            raise OSError(28, "No space left on device")
        return file

    monkeypatch.setattr(Path, "open", opened)
    for step in (1, 2, 3):
        jsonl.scalars({"loss": float(step)}, step)
    assert capsys.readouterr().out.count("warning") == 1
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    with pytest.raises(OSError, match=r"metrics\.jsonl.*No space left"):
        jsonl.flush()
    full = False
    jsonl.flush()
    assert lines(tmp_path) == [{"step": step, "loss": float(step)} for step in (1, 2, 3)]


# Any dashboard


class Broken(Dashboard):
    """Fails at everything."""

    def _fail(self, *args: object, **more: object) -> None:
        raise RuntimeError("the network is down\nfor good")

    begin = scalars = picture = table = histogram = record = checkpoint = flush = close = _fail


def test_a_dashboard_that_fails_does_not_end_a_run_and_says_so_once(
    cache: Path, train: Callable, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.commands.train import command as task

    monkeypatch.setattr(task, "build_loggers", lambda config: [Broken()])
    answer = train(cache, tmp_path / "run")
    assert answer.code == 0, answer.err
    assert (
        answer.out.count("warning: Broken failed (the network is down); the run goes on, and metrics.jsonl has all values")
        == 1
    )
    assert sum("warning" in line and "are held out" not in line for line in answer.out.splitlines()) == 1
    assert (tmp_path / "run/metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()


def test_a_logger_of_lightnings_gets_the_scalars(tmp_path: Path) -> None:
    dashboard = as_dashboard(CSVLogger(tmp_path, name="csv", version=""))
    assert isinstance(dashboard, LightningDashboard)
    dashboard.begin(SETTINGS, None)
    dashboard.scalars({"loss": 0.5}, 3)
    dashboard.picture("one", torch.zeros(3, 4, 4, dtype=torch.uint8), 3)
    dashboard.finalize("success")
    assert in_numbers(read_csv(tmp_path / "csv/metrics.csv")) == [{"loss": 0.5, "step": 3}]


# TensorBoard


def test_tensorboard_has_curves_pictures_tables_histograms_and_the_config(tmp_path: Path) -> None:
    dashboard = TensorBoard(tmp_path)
    dashboard.begin(SETTINGS, None)
    dashboard.scalars({"loss": 0.5, "health/clipped": 1.0}, 3)
    dashboard.picture("one", torch.zeros(3, 4, 4, dtype=torch.uint8), 3)
    dashboard.table("some", ["block", "ratio"], [["network", 0.25], ["text_encoder", 1e-9]], 3)
    dashboard.histogram("norms", torch.tensor([0.5, 2.0], dtype=torch.float64), 3)
    dashboard.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss/training", "training health/clipped"}
    assert events.Tags()["images"] == ["pictures/one"]
    assert events.Tags()["histograms"] == ["loss/norms"]
    texts = {
        name: events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode() for name in ("config", "some")
    }
    assert json.loads(texts["config"]) == SETTINGS
    assert texts["some"].splitlines()[-2:] == ["| network | 0.25 |", "| text_encoder | 1e-09 |"]


@pytest.fixture
def server(trained: Path) -> Iterator[str]:
    """The address of a real server that shows the tiny run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--logdir", trained, "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def listed(server: str, kind: str, *, seconds: float = 120.0) -> set[str]:
    """The tags of a plugin, once there are some."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{server}/data/plugin/{kind}/tags", timeout=10) as answer:
                found = {tag for tags in json.load(answer).values() for tag in tags}
                if found:
                    return found
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.25)
    raise TimeoutError(f"TensorBoard lists no {kind}")


@pytest.mark.slow
def test_a_real_server_lists_every_scalar_and_picture(server: str, trained: Path) -> None:
    timing = {f"time/{name}" for line in lines(trained, "timing.jsonl") for name in line if name != "step"}
    metrics = {name for line in lines(trained) for name in line if name != "step"}
    assert listed(server, "scalars") == {name_card(name) for name in metrics | timing}
    assert listed(server, "images") >= {"pictures/samples", "pictures/reverse", "pictures/forward"}


# What callbacks of own code log


def test_a_metric_that_is_no_number_is_named(tmp_path: Path) -> None:
    dashboard = JsonLines(tmp_path)
    for value in ("abc", torch.ones(3), None):
        with pytest.raises(ValueError, match="'mine' must be a number"):
            dashboard.log_metrics({"mine": value}, 3)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"trainer\.global_step"):
        dashboard.log_metrics({"mine": 1.0})


def test_a_dashboard_that_fails_ends_no_callback(capsys: pytest.CaptureFixture[str]) -> None:
    class Full(Dashboard):
        def scalars(self, values: object, step: int) -> None:
            raise OSError("no space left")

    Full().log_metrics({"mine": torch.tensor(1.0)}, 3)  # type: ignore[dict-item]
    assert "no space left" in "".join(capsys.readouterr())
