"""What a checkpoint stands on is on the disk before the checkpoint is, and nothing is left behind."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.training.checkpoints.checkpoint_io import WholeFiles
from ldm_train.training.ema.snapshots import remove_later_snapshots
from ldm_train.training.loggers.jsonl import JsonLines
from ldm_train.training.run_files import HISTORY, written_files
from tests.run_dir.records import QUIET, files


def test_all_that_a_checkpoint_stands_on_is_on_the_disk_before_it(
    cache: Path, train: Callable, spoiled: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics, pictures, averages and what was not finite: as they were when they were last flushed."""
    run_dir, fsync, replace = tmp_path / "run", os.fsync, Path.replace
    flushed: dict[int, bytes] = {}
    names: list[set[str]] = []

    def flush(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_file():
            flushed[path.stat().st_ino] = path.read_bytes()

    def rename(self: Path, target: Path) -> Path:
        if Path(target).name == "last.ckpt":
            kept = list(written_files(run_dir, HISTORY))
            assert [path for path in kept if flushed.get(path.stat().st_ino) != path.read_bytes()] == []
            names.append({path.name for path in kept})
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    words = ("ema=power", "ema.snapshot_every=2", "pictures.every=3", "validation.every=3", "max_steps=6")
    with spoiled({2, 3}, "loss"):
        answer = train(cache, run_dir, *words)
    assert answer.code == 0, answer.err
    assert len(names) == 2
    assert "update_ratios.csv" in names[1]
    assert names[0] >= {
        *(
            "metrics.csv",
            "metrics.jsonl",
            "timing.jsonl",
            "validation.jsonl",
            "growth.png",
            "prompts.json",
            "step-00000003.png",
        ),
        *("step-00000002.safetensors", "step-00000002-rank-0.json", "step-00000003-rank-0.json"),
    }


def test_nothing_is_left_under_a_temporary_name(cache: Path, train: Callable, tmp_path: Path) -> None:
    """Above all not by giving a checkpoint a second name that it has already."""
    words = [*QUIET, "checkpoint.every=2", "checkpoint.keep=3", "max_steps=4"]
    for _ in range(2):
        assert train(cache, tmp_path / "run", *words).code == 0
        assert [name for name in files(tmp_path / "run") if "writing" in name] == []
    assert json.loads((tmp_path / "run/run.json").read_text())["saved_step"] is not None


def logged(run_dir: Path, *, step: int | None = None) -> JsonLines:
    """A logger that was begun, anew or at a checkpoint's step."""
    log = JsonLines(run_dir)
    log.begin({}, step)
    return log


@pytest.mark.parametrize("torn", ['{"step": 4, "lo', "\0\0\0\0", '{"step": 4}', "\xff\u2028", "[" * 9999])
def test_lines_that_were_cut_off_or_come_again_are_dropped_and_a_users_lines_stay(torn: str, tmp_path: Path) -> None:
    log = logged(tmp_path)
    for step in (1, 2, 3):
        log.scalars({"loss": step / 3, "time/x": 1.0}, step)
        log.record("validation", {"bins": [1.0]}, step)
    log.flush()
    names = ("metrics.jsonl", "timing.jsonl", "validation.jsonl")
    whole = {name: (tmp_path / name).read_bytes() for name in names}
    for name in (*names, "captions.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(torn.encode("latin-1", errors="replace"))
    before = (tmp_path / "captions.jsonl").read_bytes()
    logged(tmp_path, step=3)
    assert {name: (tmp_path / name).read_bytes() for name in names} == whole
    assert (tmp_path / "captions.jsonl").read_bytes() == before


def test_a_full_disk_is_reported_by_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logged(tmp_path)
    log.scalars({"loss": 1.0}, 1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"metrics\.jsonl.*MiB.*No space left"):
        log.flush()


def test_averages_that_come_again_are_removed_and_a_users_file_stays(tmp_path: Path) -> None:
    for name in ("step-00000002.safetensors", "step-00000004.safetensors", "step-final.safetensors", "step-9.txt"):
        (tmp_path / "ema").mkdir(exist_ok=True)
        (tmp_path / "ema" / name).touch()
    remove_later_snapshots(tmp_path, 3)
    assert sorted(path.name for path in (tmp_path / "ema").iterdir()) == [
        *("step-00000002.safetensors", "step-9.txt", "step-final.safetensors")
    ]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path, files = tmp_path / "checkpoints" / "last.ckpt", WholeFiles()
    files.save_checkpoint({"global_step": 1}, path)
    before = path.read_bytes()

    class FullError(Exception):
        """Pickles as a disk that is full."""

        def __reduce__(self) -> str:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for content in ({"global_step": FullError()}, {"no step": 2}):
        with pytest.raises(OSError, match=re.escape(str(path))):
            files.save_checkpoint(content, path)
        assert path.read_bytes() == before
        assert [found.name for found in path.parent.iterdir()] == ["last.ckpt"]
