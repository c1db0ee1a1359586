"""A copied run directory may hold links: nothing that they lead to is written to or removed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ldm_train.run_dir.holding import hold_run_directory
from ldm_train.run_dir.reading import is_locked
from ldm_train.run_dir.record import new_record, write_record
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.files import atomic_write, remove_temporaries, temporary_path

FILES = [
    *("config.yaml", "metrics.jsonl", "metrics.csv", "timing.jsonl", ".lock", ".run.json.ldm-train-writing"),
    *(
        "samples/growth.png",
        "samples/step-00000004.png",
        "checkpoints/last.ckpt",
        "checkpoints/.last.ckpt.ldm-train-writing",
    ),
    *("prior/prior.json", "prior/pictures/00000.png", "autoencoder/config.json", "tables/update_ratios.csv"),
]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    write_record(tmp_path / "run", new_record())
    return tmp_path / "run"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/00000.png").write_text("mine")
    (tmp_path / "mine/last.ckpt").write_text("mine")
    return tmp_path / "mine"


def config(run_dir: Path, resume: str) -> TrainSettings:
    return cast(TrainSettings, SimpleNamespace(run_dir=str(run_dir), resume=resume))


def refusal(run_dir: Path, resume: str) -> str:
    with pytest.raises(ValueError, match="Nothing was changed") as caught, hold_run_directory(config(run_dir, resume)):
        pass
    return str(caught.value)


@pytest.mark.parametrize("resume", ["auto", "restart"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_a_link_is_refused(name: str, resume: str, run_dir: Path, mine: Path) -> None:
    (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
    (run_dir / name).symlink_to(mine / "last.ckpt")
    assert str(run_dir / name) in refusal(run_dir, resume)
    assert (run_dir / name).is_symlink()
    assert (mine / "last.ckpt").read_text() == "mine"


@pytest.mark.parametrize("name", ["prior", "prior/pictures", "autoencoder", "wandb"])
def test_a_folder_in_which_a_run_keeps_what_it_made_is_no_link(name: str, run_dir: Path, mine: Path) -> None:
    (run_dir / name).parent.mkdir(exist_ok=True)
    (run_dir / name).symlink_to(mine)
    assert str(run_dir / name) in refusal(run_dir, "auto")


@pytest.mark.parametrize("name", ["checkpoints", "samples", "tensorboard"])
def test_a_folder_on_another_disk_is_used_unless_it_is_another_runs(name: str, run_dir: Path, mine: Path) -> None:
    (run_dir / name).symlink_to(mine)
    with hold_run_directory(config(run_dir, "auto")):
        pass
    assert str(mine) in refusal(run_dir, "restart"), "what would be removed there may be anybody's"
    write_record(mine, new_record())
    assert str(mine) in refusal(run_dir, "auto")
    assert (mine / "last.ckpt").read_text() == "mine"


def test_a_link_of_the_users_to_a_folder_stays(run_dir: Path, mine: Path) -> None:
    (run_dir / "data").symlink_to(mine)
    with hold_run_directory(config(run_dir, "auto")):
        pass
    assert os.readlink(run_dir / "data") == str(mine)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples/growth.png"])
def test_a_pipe_is_refused(name: str, run_dir: Path) -> None:
    (run_dir / name).parent.mkdir(exist_ok=True)
    os.mkfifo(run_dir / name)
    assert str(run_dir / name) in refusal(run_dir, "auto")


def test_asking_for_a_lock_does_not_wait_for_a_pipe(run_dir: Path) -> None:
    os.mkfifo(run_dir / ".lock")
    assert is_locked(run_dir) is None


def test_a_temporary_name_that_is_a_link_or_a_pipe_is_left_alone(tmp_path: Path, mine: Path) -> None:
    temporary_path(tmp_path / "file").symlink_to(mine / "last.ckpt")
    os.mkfifo(temporary_path(tmp_path / "other"))
    remove_temporaries(tmp_path)
    with pytest.raises(OSError, match="file"):
        atomic_write(tmp_path / "file", "ours")
    assert (mine / "last.ckpt").read_text() == "mine"


def test_training_refuses_a_link(trained: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    (tmp_path / "notes.txt").write_text("mine")
    (run_dir / "metrics.jsonl").unlink()
    (run_dir / "metrics.jsonl").symlink_to(tmp_path / "notes.txt")
    answer = train(cache, run_dir, "max_steps=9")
    assert answer.code == 1
    assert str(tmp_path / "notes.txt") in answer.err
    assert (tmp_path / "notes.txt").read_text() == "mine"
