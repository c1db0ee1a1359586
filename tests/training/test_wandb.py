"""Runs that log to Weights & Biases on the disk: whole after a kill and a resume, under one id, on one axis."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from ldm_train.training.loggers.wandb import Wandb

STEPS = 8
LOGGER = ["logger=wandb", "logger.offline=true", "logger.tags=[tiny]", "logger.notes=a note", "logger.group=trials"]
DRAWN = {3, 6, 8}
PICTURES = "pictures.every=3"  # as often as checkpoints

KILLED = """
import os, signal, sys
from ldm_train.cli.main import main
from ldm_train.training.checkpoints.checkpoint_callback import Checkpoints
after_step = Checkpoints.on_train_batch_end
def kill(self, trainer, *rest):
    after_step(self, trainer, *rest)
    if trainer.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoints.on_train_batch_end = kill
main(sys.argv[1:])
"""


@pytest.fixture
def quiet() -> list[str]:
    """Neither pictures nor validation."""
    return ["pictures.prompts=[]", "pictures.every=1000", "validation.every=1000"]


@pytest.fixture
def unacquainted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """wandb as it is where nobody is logged in, with a server that does not answer."""
    import wandb

    wandb.teardown()  # it reads the environment once
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.teardown()


def records(run_dir: Path) -> list[Any]:
    """Everything that wandb wrote, in the order in which `wandb sync` uploads the directories of a run."""
    from wandb.proto.wandb_internal_pb2 import Record

    from ldm_train.training.loggers import wandb_files

    found = []
    for path in files(run_dir):
        for data in wandb_files.split_records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            found.append(record)
    return found


def files(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"))


def rows(run_dir: Path) -> list[dict[str, Any]]:
    history = [record.history.item for record in records(run_dir) if record.WhichOneof("record_type") == "history"]
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row} for row in history]


def lines(run_dir: Path, name: str = "metrics.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def killed(cache: Path, train: Callable, train_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its fifth step, two after its last checkpoint, and then continued to its end."""
    run_dir = tmp_path_factory.mktemp("wandb") / "run"
    words = ["train", f"cache={cache}", f"run_dir={run_dir}", *train_words, *LOGGER, PICTURES]
    # Else it would leave its run open in this process's own service, which an earlier test may have started.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    ended = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True, env=environment)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    answer = train(cache, run_dir, *LOGGER, PICTURES)
    assert answer.code == 0, answer.err
    assert "at step 3" in answer.out
    warnings = [line for line in (answer.out + answer.err).splitlines() if "warning" in line]
    assert [line for line in warnings if "are held out" not in line] == []
    return run_dir


def test_one_run_for_both_starts(killed: Path) -> None:
    runs = [record.run for record in records(killed) if record.WhichOneof("record_type") == "run"]
    assert len(files(killed)) == 2
    [identity] = {run.run_id for run in runs}
    assert identity == json.loads((killed / "wandb.json").read_text())["id"]
    for run in runs:
        assert (run.project, run.display_name, run.run_group, run.notes) == ("ldm-train", "run", "trials", "a note")
        assert list(run.tags) == ["tiny"]


def test_the_axis_has_every_step_and_never_goes_back(killed: Path) -> None:
    steps = [row["step"] for row in rows(killed)]
    assert steps == sorted(steps)
    assert set(steps) == set(range(1, STEPS + 1))


def test_scalars_are_those_of_the_metrics(killed: Path) -> None:
    found: dict[int, dict[str, Any]] = {}
    for row in rows(killed):
        found.setdefault(row["step"], {}).update(row)
    for line in lines(killed):
        assert {name: found[int(line["step"])][name] for name in line} == line
    assert all("time/samples_per_second" in row for row in found.values())


def test_pictures_are_there_and_are_the_runs(killed: Path) -> None:
    drawn: dict[str, set[int]] = {}
    for row in rows(killed):
        for name in (name.removesuffix("/_type") for name, value in row.items() if value == "image-file"):
            drawn.setdefault(name, set()).add(row["step"])
            path, *_ = killed.glob(f"wandb/offline-run-*/files/{row[f'{name}/path']}")
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            if name == "samples":
                with Image.open(killed / f"samples/step-{row['step']:08d}.png") as picture:
                    assert np.array_equal(pixels, np.asarray(picture))
    assert drawn["samples"] == drawn["reverse"] == DRAWN


def test_the_config_is_there(killed: Path) -> None:
    updates = [record.config.update for record in records(killed) if record.WhichOneof("record_type") == "config"]
    config = {update.key: json.loads(update.value_json) for several in updates for update in several}
    assert config["batch_size"] == 4
    assert config["network"]["channels"] == [16, 32]


def test_another_run_in_its_place_has_another_id(
    cache: Path, train: Callable, power_cut: Callable, quiet: list[str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with power_cut(2):
        train(cache, run_dir, *LOGGER, *quiet)
    before = json.loads((run_dir / "wandb.json").read_text())
    assert train(cache, run_dir, *LOGGER, *quiet, "max_steps=2").code == 0
    after = json.loads((run_dir / "wandb.json").read_text())
    assert before != after
    assert {path.stem for path in files(run_dir)} == {f"run-{before['id']}", f"run-{after['id']}"}


def test_who_joins_late_gets_what_was_before(cache: Path, train: Callable, trained: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    assert train(cache, run_dir, *LOGGER, "max_steps=9").code == 0
    found = [row for row in rows(run_dir) if "loss" in row]
    assert [row["step"] for row in found] == list(range(1, 10))
    assert [row["loss"] for row in found] == [line["loss"] for line in lines(run_dir)]


def test_a_service_that_dies_does_not_end_the_run(
    cache: Path, train: Callable, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.training.loggers.wandb import Wandb

    flush, run_dir = Wandb.flush, tmp_path / "run"

    def then_die(self: Wandb) -> None:
        flush(self)
        for process in psutil.Process().children():
            if "wandb-core" in process.name():
                process.kill()
                process.wait()

    monkeypatch.setattr(Wandb, "flush", then_die)
    answer = train(cache, run_dir, *LOGGER, *quiet)
    assert answer.code == 0, answer.err
    assert len(re.findall("warning: .*Wandb", answer.out)) == 1
    assert [line["step"] for line in lines(run_dir)] == list(range(1, STEPS + 1))


def test_without_a_server_a_run_is_logged_on_the_disk(
    cache: Path, train: Callable, quiet: list[str], unacquainted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.training.loggers import wandb

    monkeypatch.setattr(wandb, "INIT", 2.0)
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    answer = train(cache, tmp_path / "run", "logger=wandb", *quiet, "max_steps=2")
    assert answer.code == 0, answer.err
    assert "warning: wandb cannot be reached" in answer.out
    assert f"wandb sync {tmp_path / 'run'}/wandb" in answer.out
    assert {row["step"] for row in rows(tmp_path / "run")} == {1, 2}


def test_a_stranger_is_refused_before_anything_is_read(ldm_train: Callable, unacquainted: None, tmp_path: Path) -> None:
    answer = ldm_train("train", "cache=absent", f"run_dir={tmp_path / 'run'}", "logger=wandb", "max_steps=1")
    assert answer.code == 1
    assert "logger=wandb found no API key" in answer.err
    assert "logger.offline=true" in answer.err
    assert not (tmp_path / "run").exists()


def test_checkpoints_are_kept_as_artifacts_when_asked(
    cache: Path, train: Callable, quiet: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    answer = train(cache, tmp_path / "run", *LOGGER, "logger.artifacts=true", *quiet)
    assert answer.code == 0, answer.err
    logged = [record.artifact for record in records(tmp_path / "run") if record.WhichOneof("record_type") == "artifact"]
    found = [artifact for artifact in logged if artifact.type == "model"]  # others are tables
    assert [json.loads(artifact.metadata)["step"] for artifact in found] == [3, 6, 8]
    for artifact in found:
        [entry] = artifact.manifest.contents
        assert Path(entry.local_path).is_relative_to(tmp_path / "run")
        assert torch.load(entry.local_path, weights_only=True)["global_step"] == json.loads(artifact.metadata)["step"]


@pytest.mark.parametrize("text", ["[]", "{}", '{"id": 3}', '{"id": "../../x"}', "{", '{"id": "' + "a" * 99 + '"}'])
def test_a_damaged_identity_is_a_message_with_its_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "wandb.json").write_text(text)
    with pytest.raises(ValueError, match=r"wandb\.json"):
        Wandb(str(tmp_path), offline=True)._identity(anew=False)
