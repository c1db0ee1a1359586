"""A run is opened from any folder, also after it was moved; what is not found is named with where it was looked for."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.run_dir.stored_settings import read_trained
from tests.training.test_stop import INTERRUPTED

SHORT = ["max_steps=2", "pictures.prompts=[]", "validation.every=1000"]


@pytest.fixture
def project(cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a cache, a run on it, and a LoRA of that run, all by relative paths."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copytree(cache, folder / "caches/mine")
    monkeypatch.chdir(folder)
    assert train("caches/mine", "outputs/base", *SHORT).code == 0
    lora = ["network.weights=outputs/base", "adapter=lora", "adapter.rank=2"]
    answer = train("caches/mine", "outputs/lora", *SHORT, *lora)
    assert answer.code == 0, answer.err
    return folder


def use(ldm_train: Callable, run_dir: Path, out: Path, *words: str) -> list[object]:
    """Sample, evaluate and merge a run; the answers."""
    return [
        ldm_train("sample", f"run_dir={run_dir}", "prompts=[a]", "steps=1", f"out={out}/pictures", "device=cpu", *words),
        ldm_train("evaluate", f"run_dir={run_dir}", "features=null", f"out={out}/measured.json", "device=cpu", *words),
        ldm_train("export", f"run_dir={run_dir}", "merge=true", f"out={out}/whole.safetensors", *words),
    ]


def test_a_run_is_opened_from_another_folder_moved_and_in_pieces(
    project: Path, ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for answer in use(ldm_train, project / "outputs/lora", tmp_path / "one"):
        assert answer.code == 0, answer.err
    assert json.loads((tmp_path / "one/measured.json").read_text())["validation_loss"] > 0
    moved = project.rename(tmp_path / "moved")
    for answer in use(ldm_train, moved / "outputs/lora", tmp_path / "two"):
        assert answer.code == 0, answer.err
    (moved / "outputs/base").rename(tmp_path / "base")
    (moved / "caches").rename(tmp_path / "data")
    lost = use(ldm_train, moved / "outputs/lora", tmp_path / "three")
    for answer in lost:
        assert answer.code == 1
        assert "network.weights=outputs/base" in answer.err
        assert {str(elsewhere / "outputs/base"), str(moved / "outputs/base")} <= {
            word.strip(",;") for word in answer.err.split()
        }
        assert "moved={outputs/base:PATH}" in answer.err
    again = f"moved={{outputs/base:{tmp_path}/base,caches:{tmp_path}/data}}"
    for answer in use(ldm_train, moved / "outputs/lora", tmp_path / "four", again):
        assert answer.code == 0, answer.err
    assert json.loads((tmp_path / "four/measured.json").read_text())["validation_loss"] > 0


def test_errors_about_other_things_name_no_lost_path(project: Path, ldm_train: Callable, tmp_path: Path) -> None:
    (project / "caches").rename(tmp_path / "data")
    answer = ldm_train("export", "run_dir=outputs/base", "weights=gone.safetensors", "out=whole.safetensors")
    assert answer.code == 1
    assert "weights=gone.safetensors" in answer.err
    assert "moved=" not in answer.err


def test_two_places_that_fit_are_not_chosen_between(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="say which") as raised:
        read_trained(tmp_path / "copy/outputs/lora")
    assert str(tmp_path / "copy/outputs/base") in str(raised.value)
    assert str(project / "outputs/base") in str(raised.value)
    monkeypatch.chdir(tmp_path / "copy")
    assert read_trained("outputs/lora").cache == "caches/mine"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
@pytest.mark.parametrize("when", ["opening the data", "class pictures"])
def test_a_signal_before_the_first_step_is_answered_as_later(
    number: signal.Signals, when: str, cache: Path, trained: Path, train: Callable, tmp_path: Path
) -> None:
    from ldm_train.assembly import prior
    from ldm_train.commands.train import command

    run_dir = tmp_path / "run"
    words = [*SHORT, f"network.weights={trained}", "prior.prompts=a black circle", "prior.count=2", "prior.steps=1"]
    owner, name = {"opening the data": (command, "open_data"), "class pictures": (prior, "draw_class_pictures")}[when]
    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, lambda *arguments, **more: os.kill(os.getpid(), number))
        answer = train(cache, run_dir, *words)
    assert answer.code == INTERRUPTED, answer.err
    assert number.name in answer.out
    assert signal.getsignal(number) is before
    assert not (run_dir / "checkpoints/last.ckpt").exists()
    answer = train(cache, run_dir, *words)
    assert answer.code == 0, answer.err
