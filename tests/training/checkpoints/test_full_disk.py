"""A full disk: reported at once where it can be known, and nothing that was saved is lost."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ldm_train.training.checkpoints.checkpoint_callback import Checkpoints, occupied
from tests.training.checkpoints.checkpointed import KEPT, QUIET, assert_same_run, last, load


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_without_room_for_the_runs_checkpoints_is_reported_at_once(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40 - 2**20, 2**20))
        answer = train(cache, tmp_path / "run", *KEPT)
    assert answer.code == 1
    said = re.search(r"the run's checkpoints will take (\d+) MiB, and .+/checkpoints has 1 MiB left", answer.err)
    assert said
    assert "make room, lower checkpoint.keep=3, or choose another run_dir" in answer.err
    assert not (tmp_path / "run/metrics.jsonl").exists()
    assert train(cache, tmp_path / "run", *KEPT).code == 0
    most = 4 * last(tmp_path / "run").stat().st_size / 2**20  # three are kept, and one is being written
    assert 0.8 * most - 1 < int(said[1]) < 1.2 * most + 1


def test_a_disk_that_held_a_run_is_not_too_small_to_continue_it(
    copied: Path, cache: Path, train: Callable, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for four, three of which are there."""
    capacity = int(4.2 * last(copied).stat().st_size)

    def usage(path: Path) -> Usage:
        used = occupied(copied / "checkpoints")
        return Usage(capacity, used, capacity - used)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    answer = train(cache, copied, *KEPT)
    assert answer.code == 0, answer.err
    assert_same_run(copied, whole)


@pytest.fixture
def disk(tmp_path: Path, cut: Path) -> Iterator[Path]:
    """A file system of its own with room for three checkpoints."""
    folder, size = tmp_path / "disk", int(3.5 * last(cut).stat().st_size)
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("reported", ["the room is asked for", "the room is lied about"])
def test_a_disk_that_fills_up_leaves_the_checkpoint_before_and_the_run_goes_on_when_there_is_room(
    reported: str,
    disk: Path,
    cache: Path,
    train: Callable,
    run_with: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_dir, words, original = disk / "run", [*QUIET, "checkpoint.every=2"], Checkpoints._save

    def fill(self: Checkpoints, trainer: Any) -> None:
        if trainer.global_step == 6:
            free = shutil.disk_usage(disk).free
            (disk / "filler").write_bytes(bytes(free - last(run_dir).stat().st_size // 2))
            if reported == "the room is lied about":
                monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**40))
        original(self, trainer)

    monkeypatch.setattr(Checkpoints, "_save", fill)
    answer = train(cache, run_dir, *words)
    monkeypatch.undo()
    assert answer.code == 1
    assert "Traceback" not in answer.err
    if reported == "the room is asked for":
        assert re.search(
            r"the next checkpoint will take \d+ MiB, and .+/checkpoints has \d+ MiB left; make room", answer.err
        )
    else:
        assert re.search(r"cannot write .+/last.ckpt \([\d,]+ MiB are free there\): No space left on device", answer.err)
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["last.ckpt"]
    assert load(last(run_dir))["global_step"] == 4
    (disk / "filler").unlink()
    answer = train(cache, run_dir, *words)
    assert answer.code == 0, answer.err
    assert_same_run(run_dir, run_with(*words))
