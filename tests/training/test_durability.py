"""What a checkpoint stands on is on the disk before the checkpoint is, and nothing is left behind."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.training.run_files import HISTORY, written_files
from tests.tasks.running.records import QUIET, files


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
    with spoiled({2}, "loss"):
        answer = train(cache, run_dir, *words)
    assert answer.code == 0, answer.err
    assert len(names) == 2
    assert names[0] >= {
        *("metrics.csv", "metrics.jsonl", "timing.jsonl", "validation.jsonl", "growth.png", "prompts.json", "step-00000003.png"),
        *("step-00000002.safetensors", "step-00000002-rank-0.json"),
    }


def test_nothing_is_left_under_a_temporary_name(cache: Path, train: Callable, tmp_path: Path) -> None:
    """Above all not by giving a checkpoint a second name that it has already."""
    words = [*QUIET, "checkpoint.every=2", "checkpoint.keep=3", "max_steps=4"]
    for _ in range(2):
        assert train(cache, tmp_path / "run", *words).code == 0
        assert [name for name in files(tmp_path / "run") if "writing" in name] == []
    assert json.loads((tmp_path / "run/run.json").read_text())["saved"] is True
