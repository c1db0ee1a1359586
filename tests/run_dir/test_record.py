"""A run directory: what it says of its run, that it is whole wherever it lies, and that only one process has it."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from ldm_train.data.cache.manifest import read_manifest
from ldm_train.run_dir.record import PACKAGES, describe_end
from tests.run_dir.records import QUIET, files, lines, record

# What it says


def test_a_start_is_recorded_with_its_command_versions_sources_and_data(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/ldm-train", "train", "run_dir=a folder", "cache=b"])
    for steps in (1, 2):
        assert train(cache, tmp_path / "run", *QUIET, f"max_steps={steps}").code == 0
    found = record(tmp_path / "run")
    assert found["content"] == read_manifest(cache).fingerprint
    assert len(found["starts"]) == 2
    for start in found["starts"]:
        assert start["command"] == "ldm-train train 'run_dir=a folder' cache=b"
        assert set(start["packages"]) == {*PACKAGES, "python"}
        assert start["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
        assert start["devices"] == {"nodes": 1, "each": 1, "batch": None}
        assert start["threads"] == 1
        assert datetime.fromisoformat(start["time"]).tzinfo is not None
    assert found["starts"][0]["time"] <= found["starts"][1]["time"]


def test_how_a_start_ended_is_recorded(cache: Path, train: Callable, tmp_path: Path, power_cut: Callable) -> None:
    """An error, a limit of time, the last step; a start that was refused is none, and changes nothing."""
    run = tmp_path / "run"
    with power_cut(4):
        train(cache, run, *QUIET, "debug=true")
    [first] = record(run)["starts"]
    assert first["ended"]["as"] == "failed: PowerCutError: "
    before = (run / "run.json").read_bytes()
    assert train(cache, run, *QUIET, "seed=1").code == 1
    assert train(cache, run, *QUIET, "batch_size=0").code == 1
    assert (run / "run.json").read_bytes() == before
    assert train(cache, run, *QUIET, "max_time=0:00:00").code == 75
    assert train(cache, run, *QUIET).code == 0
    ends = [start["ended"] for start in record(run)["starts"]]
    assert [end["as"] for end in ends[1:]] == ["interrupted (max_time)", "finished"]
    assert [end["step"] for end in ends][1:] == [4, 8]
    assert all(datetime.fromisoformat(end["time"]).tzinfo is not None for end in ends)


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (ValueError("too\n  high"), "failed: too high"),
        (RuntimeError("x" * 1000), "failed: RuntimeError: " + "x" * 500),
        (KeyboardInterrupt(), "interrupted (Ctrl-C)"),
    ],
)
def test_an_error_is_reported_in_a_line(error: BaseException, reported: str) -> None:
    assert describe_end(error) == reported


def test_a_glance_at_the_lock_keeps_no_run_from_starting(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm_train.run_dir.holding.MOMENT", 30.0)
    (tmp_path / "run").mkdir()
    glance = (tmp_path / "run/.lock").open("a")
    fcntl.flock(glance, fcntl.LOCK_SH)
    threading.Timer(0.5, glance.close).start()
    assert train(cache, tmp_path / "run", *QUIET, "max_steps=1").code == 0


def test_the_commit_is_that_of_the_sources(finished: Path) -> None:
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        pytest.skip("not in a git repository")
    head = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert record(finished)["starts"][0]["git"]["ldm_train"]["commit"] == head.strip()


def test_the_config_is_whole_and_resolved(finished: Path) -> None:
    text = (finished / "config.yaml").read_text()
    assert "${" not in text
    assert "???" not in text
    config = OmegaConf.load(finished / "config.yaml")
    assert (config.optimizer.lr, config.batch_size, config.image_size) == (1e-3, 4, 16)
    assert config.autoencoder._target_.startswith("ldm_train."), "the cache's own, filled in"


# Where it lies


def test_a_run_and_its_cache_may_be_moved(
    cache: Path, train: Callable, finished: Path, power_cut: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cache, tmp_path / "cache")
    with power_cut(4):
        train(tmp_path / "cache", tmp_path / "run", *QUIET)
    (tmp_path / "new").mkdir()
    for name in ("cache", "run"):
        shutil.move(tmp_path / name, tmp_path / "new" / name)
    monkeypatch.chdir(tmp_path / "new")
    answer = train("cache", "run", *QUIET)
    assert answer.code == 0, answer.err
    assert "at step 3" in answer.out
    one, other = (torch.load(d / "checkpoints/last.ckpt", weights_only=True) for d in (tmp_path / "new/run", finished))
    assert_close(one["state_dict"], other["state_dict"], rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


# What cannot be read


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"{}", b'{"content": "a"}', b'{"starts": 3, "content": ""}', b"\xff\xfe"]
)
@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_record_that_is_missing_or_damaged_is_reported(
    name: str, content: bytes | None, copy: Path, cache: Path, train: Callable
) -> None:
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    answer = train(cache, copy, *QUIET, "max_steps=9")
    assert answer.code == 1
    assert str(copy) in answer.err
    assert name in answer.err
    assert "Traceback" not in answer.err
    assert len(lines(copy)) == 8


def test_a_power_cut_while_the_config_is_written_leaves_the_one_before(
    copy: Path, cache: Path, train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, original = (copy / "config.yaml").read_bytes(), Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target.name == "config.yaml":
            raise OSError("no power")
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        assert train(cache, copy, *QUIET, "max_steps=9").code == 1
    assert (copy / "config.yaml").read_bytes() == before
    assert train(cache, copy, *QUIET, "max_steps=9").code == 0


# Starting


@pytest.mark.parametrize("left", ["last.ckpt", "step-00000003.ckpt", "best.ckpt"])
def test_resume_never_takes_no_directory_with_a_checkpoint(left: str, cache: Path, train: Callable, copy: Path) -> None:
    (copy / "checkpoints/last.ckpt").rename(copy / "checkpoints" / left)
    before = files(copy)
    answer = train(cache, copy, *QUIET, "resume=never")
    assert answer.code == 1
    assert "is already there; resume=auto continues it, or choose another run_dir" in answer.err
    assert files(copy) == before


def test_resume_never_starts_where_there_is_none(cache: Path, train: Callable, tmp_path: Path) -> None:
    assert train(cache, tmp_path / "run", *QUIET, "resume=never", "max_steps=1").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=maybe"], "resume=maybe is not known"),
        (["cache={tmp}/nowhere"], "nowhere"),
        (["batch_size=0"], "batch_size=0 must be a whole number of at least 1"),
        (["micro_batch_size=3"], "batch_size=4 is the global batch and cannot be divided"),
        (["network.weights={tmp}/nowhere"], "nowhere"),
        (["lr_schedule.cooldown_steps=9"], "more than max_steps=8"),
        (["trainer.precision=64-mixed"], "64-mixed"),
    ],
)
def test_what_is_refused_leaves_no_directory(
    words: list[str], message: str, cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", *QUIET, *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert answer.code == 1
    assert message in answer.err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_stays_empty_and_a_users_file_in_a_run_directory_stays(
    cache: Path, train: Callable, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    assert train(cache, tmp_path / "run", *QUIET, "micro_batch_size=3").code == 1
    assert list((tmp_path / "run").iterdir()) == []
    assert train(cache, tmp_path / "run", *QUIET, "max_steps=1").code == 0
    (tmp_path / "run/notes.jsonl").write_text("mine")
    assert train(cache, tmp_path / "run", *QUIET, "max_steps=2").code == 0
    assert train(cache, tmp_path / "run", *QUIET, "max_steps=1", "seed=1", "resume=restart").code == 0
    assert (tmp_path / "run/notes.jsonl").read_text() == "mine"
    assert [line["step"] for line in lines(tmp_path / "run")] == [1]
    assert OmegaConf.load(tmp_path / "run/config.yaml").resume == "auto", "the next start continues"


def test_a_start_without_a_checkpoint_leaves_nothing_of_itself_to_the_next(
    cache: Path, train: Callable, power_cut: Callable, tmp_path: Path
) -> None:
    """Another run may follow in its place, whose curves are then the only ones."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with power_cut(2):
        train(cache, tmp_path / "run", *QUIET)
    answer = train(cache, tmp_path / "run", *QUIET, "seed=1", "max_steps=4")
    assert answer.code == 0, answer.err
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]
    assert len(record(tmp_path / "run")["starts"]) == 1
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    logged = {event.step: event.value for event in events.Scalars("loss/training")}
    assert [event.step for event in events.Scalars("loss/training")] == [1, 2, 3, 4]
    assert logged == pytest.approx({line["step"]: line["loss"] for line in lines(tmp_path / "run")}, rel=1e-6)


@pytest.mark.slow
def test_two_processes_do_not_share_a_directory(
    cache: Path, train: Callable, train_words: list[str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    words = ["train", f"cache={cache}", f"run_dir={run_dir}", *train_words, *QUIET, "max_steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ldm_train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        while not (run_dir / "checkpoints/last.ckpt").is_file():
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        answer = train(cache, run_dir, *QUIET, "max_steps=100000")
        assert answer.code == 1
        assert "belongs to a run that is still going" in answer.err
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 75, err
    assert re.search("stopped by SIGTERM and saved", out)
    made = [line["step"] for line in lines(run_dir)]
    assert made == list(range(1, len(made) + 1))
    assert len(record(run_dir)["starts"]) == 1
