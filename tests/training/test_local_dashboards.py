"""Runs that log to MLflow and to Trackio, on the disk: one run for all starts, every step once, pictures and the config."""

import importlib.util
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_train.settings.composition import ConfigError, compose
from ldm_train.settings.shipped import searching
from ldm_train.training.loggers.step_rows import StepRows
from ldm_train.training.loggers.trackio import as_folder_name

STEPS = list(range(1, 9))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of libraries that mlflow and trackio use
needs_mlflow = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mlflow", "sqlalchemy", "alembic")),
    reason="the extra mlflow is not installed",
)
needs_trackio = pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")


def lines(run_dir: Path) -> dict[int, dict[str, float]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {int(row.pop("step")): row for row in rows}


def continued(cache: Path, train: Callable, power_cut: Callable, run_dir: Path, logger: str) -> Path:
    """A run that ended after step 5, two after its last checkpoint, and was continued to its end."""
    words = [f"logger={logger}", "pictures.every=3"]
    with power_cut(5):
        train(cache, run_dir, *words)
    answer = train(cache, run_dir, *words)
    assert answer.code == 0, answer.err
    assert f"warning: {logger}" not in answer.out.lower()
    return run_dir


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("logger", ["mlflow", "trackio"])
def test_a_missing_package_is_named_at_once_with_its_extra(
    logger: str, ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == logger else found(name, *rest))
    answer = ldm_train("train", "cache=absent", f"run_dir={tmp_path / 'run'}", f"logger={logger}", "max_steps=1")
    assert answer.code == 1
    assert f"'ldm-train[{logger}]'" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("form", ["logger: {%s}", "logger.%s", "logger: {_target_: %s.Logger, %s}"])
@pytest.mark.parametrize("setting", ["tracking_uri: http://example.com", "space_id: someone/else"])
def test_a_file_does_not_say_where_everything_is_sent(setting: str, form: str, tmp_path: Path) -> None:
    option, target = ("mlflow", "mlflow.MLflow") if "uri" in setting else ("trackio", "trackio.Trackio")
    text = form.replace("%s.Logger", f"ldm_train.training.loggers.{target}").replace("%s", setting)
    (tmp_path / "mine.yaml").write_text(text + "\n")
    name = setting.partition(":")[0]
    chosen = [] if "_target_" in form else [f"logger={option}"]
    with pytest.raises(ConfigError, match=f"logger.{name}"):
        compose("train", ["cache=c", "run_dir=r", *chosen, f"config={tmp_path}/mine.yaml"])


def test_an_own_option_does_not_say_it_either(tmp_path: Path) -> None:
    (tmp_path / "logger").mkdir()
    target = "ldm_train.training.loggers.mlflow.MLflow"
    (tmp_path / "logger/mine.yaml").write_text(f"_target_: {target}\ntracking_uri: http://example.com\n")
    with searching([f"config_path={tmp_path}"]), pytest.raises(ConfigError, match=r"logger\.tracking_uri"):
        compose("train", ["cache=c", "run_dir=r", "logger=mine"])


@pytest.mark.parametrize("name", ["../../away", "/away", "..", "a\\b"])
def test_trackio_makes_no_folder_elsewhere(name: str) -> None:
    inside = Path("/run/media")
    assert Path(os.path.normpath(inside / as_folder_name(name))).parent == inside
    assert "\\" not in as_folder_name(name)


def test_a_row_is_logged_when_it_is_whole_and_once() -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    rows = StepRows[float](lambda values, step: logged.append((step, dict(values))))
    rows.last_known = 1
    for step, values in ((1, {"a": 0.0}), (2, {"a": 1.0}), (2, {"b": 2.0}), (3, {"a": 3.0})):
        rows.add(values, step)
    assert logged == [(2, {"a": 1.0, "b": 2.0})]
    rows.commit()
    rows.commit()
    assert logged[1:] == [(3, {"a": 3.0})]


# MLflow


@pytest.fixture(scope="module")
def mlflow_run(cache: Path, train: Callable, power_cut: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return continued(cache, train, power_cut, tmp_path_factory.mktemp("mlflow") / "run", "mlflow")


def open_mlflow(run_dir: Path) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run_dir}/mlflow/mlflow.db")
    [experiment] = [one for one in client.search_experiments() if one.name == "ldm-train"]
    [run] = client.search_runs([experiment.experiment_id])
    return client, run


@needs_mlflow
def test_mlflow_has_one_run_with_every_step_once(mlflow_run: Path) -> None:
    client, run = open_mlflow(mlflow_run)
    assert json.loads((mlflow_run / "mlflow.json").read_text()) == {"id": run.info.run_id}
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    history = {name: client.get_metric_history(run.info.run_id, name) for name in ("loss", "validation_loss")}
    assert [metric.step for metric in history["loss"]] == STEPS
    for name, metrics in history.items():
        assert {one.step: one.value for one in metrics} == {
            step: row[name] for step, row in lines(mlflow_run).items() if name in row
        }


@needs_mlflow
def test_mlflow_has_the_config_pictures_and_tables(mlflow_run: Path) -> None:
    _, run = open_mlflow(mlflow_run)
    assert run.data.params["network.channels"] == "[16, 32]"
    artifacts = mlflow_run / "mlflow" / "artifacts" / run.info.run_id / "artifacts"
    assert json.loads((artifacts / "config.json").read_text())["batch_size"] == 4
    drawn = sorted(path for path in (artifacts / "images").glob("samples*step*.png"))
    assert len(drawn) == 3, "of steps 3, 6 and 8"
    latest = next(path for path in drawn if "%8%" in path.name or "+8+" in path.name)
    assert np.array_equal(pixels(latest), pixels(mlflow_run / "samples/step-00000008.png"))


@needs_mlflow
def test_mlflow_gets_what_was_before_and_survives_failures(trained: Path, tmp_path: Path) -> None:
    """Rows before the logger was added are copied; rows of a server that did not answer come at the next checkpoint."""
    from ldm_train.training.loggers.mlflow import MLflow

    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    logger = MLflow(str(run_dir))
    logger.begin({"seed": 0}, 3)
    log_batch = logger._client.log_batch
    logger._client.log_batch = lambda *_, **__: (_ for _ in ()).throw(OSError("no answer"))  # type: ignore[method-assign]
    logger.scalars({"loss": lines(run_dir)[4]["loss"]}, 4)
    with pytest.raises(OSError, match="no answer"):
        logger.scalars({"loss": lines(run_dir)[5]["loss"]}, 5)
    logger.scalars({"loss": lines(run_dir)[6]["loss"]}, 6)
    logger._client.log_batch = log_batch  # type: ignore[method-assign]
    logger.flush()
    logger.picture("samples", torch.zeros(3, 8, 8, dtype=torch.uint8), 6)
    logger.table("bins", ["snr", "loss"], [[1, 0.5], [2, 0.25]], 6)
    logger.close(failed=False)
    client, run = open_mlflow(run_dir)
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(step, lines(run_dir)[step]["loss"]) for step in range(1, 7)]
    [table] = (run_dir / "mlflow/artifacts" / run.info.run_id / "artifacts/tables").iterdir()
    assert json.loads(table.read_text())["columns"] == ["snr", "loss"]


@needs_mlflow
def test_a_server_that_did_not_answer_at_the_start_is_tried_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.training.loggers import mlflow

    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    logger, opened = mlflow.MLflow(str(run_dir)), mlflow.MLflow._open
    monkeypatch.setattr(mlflow.MLflow, "_open", lambda *_: (_ for _ in ()).throw(OSError("no answer")))
    with pytest.raises(OSError, match="no answer"):
        logger.begin({"seed": 0}, None)
    logger.scalars({"loss": lines(run_dir)[1]["loss"]}, 1)
    logger.flush()  # too early to try again
    monkeypatch.setattr(mlflow.MLflow, "_open", opened)
    monkeypatch.setattr(mlflow, "RETRY_SECONDS", 0.0)
    logger.scalars({"loss": lines(run_dir)[2]["loss"]}, 2)
    logger.flush()
    logger.scalars({"loss": lines(run_dir)[3]["loss"]}, 3)
    logger.close(failed=False)
    client, run = open_mlflow(run_dir)
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(step, lines(run_dir)[step]["loss"]) for step in (1, 2, 3)]
    assert run.data.params["seed"] == "0"


@needs_mlflow
def test_mlflow_of_a_copied_run_writes_nothing_into_the_other_one(mlflow_run: Path, tmp_path: Path) -> None:
    from ldm_train.training.loggers.mlflow import MLflow

    before = {path: path.stat().st_mtime_ns for path in mlflow_run.rglob("*")}
    logger = MLflow(str(shutil.copytree(mlflow_run, tmp_path / "copy")))
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "copy/mlflow"))):
        logger.begin({"seed": 0}, STEPS[-1])
    logger.picture("samples", torch.zeros(3, 8, 8, dtype=torch.uint8), STEPS[-1] + 1)
    logger.close(failed=False)
    assert {path: path.stat().st_mtime_ns for path in mlflow_run.rglob("*")} == before


# Trackio


@pytest.fixture(scope="module")
def trackio_run(cache: Path, train: Callable, power_cut: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return continued(cache, train, power_cut, tmp_path_factory.mktemp("trackio") / "run", "trackio")


def read_trackio(run_dir: Path) -> list[tuple[str, int, dict[str, Any]]]:
    """Return (run, step, values) of all rows, in the order in which they were written."""
    with sqlite3.connect(run_dir / "trackio/ldm-train.db") as database:
        found = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    return [(name, step, json.loads(values)) for name, step, values in found]


@needs_trackio
def test_trackio_has_one_run_with_every_step_once(trackio_run: Path) -> None:
    rows = read_trackio(trackio_run)
    assert {name for name, _, _ in rows} == {f"run-{json.loads((trackio_run / 'trackio.json').read_text())['id']}"}
    assert [step for _, step, _ in rows] == STEPS
    for _, step, values in rows:
        row = lines(trackio_run)[step]
        assert {name: values[name] for name in row} == row


@needs_trackio
def test_trackio_has_pictures(trackio_run: Path) -> None:
    drawn = {step: values["samples"] for _, step, values in read_trackio(trackio_run) if "samples" in values}
    assert set(drawn) == {3, 6, 8}
    path = trackio_run / "trackio/media" / drawn[8]["file_path"]
    assert np.array_equal(pixels(path), pixels(trackio_run / "samples/step-00000008.png"))


@needs_trackio
def test_trackio_writes_into_one_folder_of_a_process(trackio_run: Path, tmp_path: Path) -> None:
    from ldm_train.training.loggers.trackio import Trackio

    with pytest.raises(ValueError, match="TRACKIO_DIR") as raised:
        Trackio(str(tmp_path / "other"))
    assert str(trackio_run / "trackio") in str(raised.value)
