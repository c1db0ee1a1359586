"""Checkpoints that a thread writes while training goes on: the same files, and nothing is lost where the run ends."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ldm_train.training.checkpoints import checkpoint_io
from ldm_train.training.checkpoints.background_writer import BackgroundWriter, HostCopies
from ldm_train.training.checkpoints.checkpoint_callback import Checkpoints, Keeping
from ldm_train.training.checkpoints.checkpoint_files import damage, numbered
from tests.training.checkpoints.checkpointed import KEPT, assert_same_run, last, load

BACKGROUND = [*KEPT, "checkpoint.background=true"]


@contextmanager
def slow_writer(seconds: float = 0.5, *, fail_at: int = 0, number: int = errno.ENOSPC) -> Iterator[list[tuple[int, str]]]:
    """Wait before each checkpoint is written, or fail at a step; the steps and threads of those that were written."""
    write, written = torch.save, []

    def save(checkpoint: Any, file: Any) -> None:
        time.sleep(seconds)
        if checkpoint["global_step"] == fail_at:
            raise OSError(number, os.strerror(number))
        write(checkpoint, file)
        written.append((checkpoint["global_step"], threading.current_thread().name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_io.torch, "save", save)
        yield written


# The copy


def tree() -> dict[str, Any]:
    """With shared storages, strides, and what is no plain tensor."""
    weight = torch.arange(20.0).view(4, 5).contiguous()
    return {
        "weight": weight,
        "transposed": weight.t(),
        "row": weight[2],
        "empty": torch.empty(0),
        "number": torch.tensor(3),
        "channels_last": torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last).bfloat16(),
        "parameter": nn.Parameter(torch.ones(2)),
        "conjugate": torch.full((2,), 1 + 2j).conj(),
        "rest": {"list": [1, ("text", None, 1.5)], "set": {1, 2}, "dtype": torch.float16},
    }


def test_a_copy_is_the_same_and_does_not_follow_the_original() -> None:
    original = tree()
    before = {name: value.detach().clone() for name, value in original.items() if name != "rest"}
    copied: Any = HostCopies().copy(original)
    for name in before:
        original[name].detach().fill_(7)
    original["rest"].clear()
    assert copied.pop("rest") == tree()["rest"]
    for name, value in before.items():
        assert_close(copied[name], value, rtol=0, atol=0)
        assert copied[name].stride() == value.stride()
    shared = {copied[name].untyped_storage().data_ptr() for name in ("weight", "transposed", "row")}
    assert len(shared) == 1, "a file would hold them several times"


def test_each_copy_takes_the_memory_of_the_one_before() -> None:
    def addresses(copied: Any) -> set[int]:
        return {tensor.data_ptr() for tensor in copied}

    copies, tensors = HostCopies(), [torch.randn(100), torch.randn(100), torch.randn(50)]
    first = addresses(copies.copy(tensors))
    assert len(first) == 3
    for changed in (tensors, tensors[::-1], [*tensors, torch.randn(70)], tensors):
        copied = copies.copy(changed)
        assert_close(copied, changed, rtol=0, atol=0)
        assert addresses(copied) >= first


def test_memory_that_is_not_there_is_reported_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.ones(3)]

    def refuse(*size: int, **more: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(ValueError, match=r"12 bytes .* checkpoint\.background=false"):
        HostCopies().copy(tensors)


def test_one_checkpoint_at_a_time_and_failures_are_raised_once() -> None:
    writer, release, done = BackgroundWriter(), threading.Event(), []

    def write(checkpoint: Any) -> None:
        release.wait()
        if checkpoint["step"] == 2:
            raise OSError("full")
        done.append(checkpoint["step"])

    assert not writer.finish(wait=True)
    writer.start({"step": 1}, write, then=lambda: done.append("then"))
    assert not writer.finish(wait=False)
    with pytest.raises(AssertionError):
        writer.start({"step": 9}, write, then=lambda: None)
    release.set()
    assert writer.finish(wait=True)
    assert done == [1, "then"]
    writer.start({"step": 2}, write, then=lambda: done.append("never"))
    with pytest.raises(OSError, match="full"):
        writer.finish(wait=True)
    assert not writer.finish(wait=True)
    assert done == [1, "then"]


def test_shares_in_the_background_are_refused() -> None:
    Keeping(1, shares=True)
    with pytest.raises(ValueError, match=r"checkpoint\.background=true .* checkpoint\.shares=true"):
        Keeping(1, shares=True, background=True)


# Runs


def test_a_run_is_the_same_and_goes_on_from_any_of_its_checkpoints(
    cache: Path, train: Callable, power_cut: Callable, whole: Path, tmp_path: Path
) -> None:
    """With a writer that takes longer than a step, while which the weights change."""
    run_dir = tmp_path / "run"
    with slow_writer() as written, power_cut(7):
        train(cache, run_dir, *BACKGROUND)
    assert [step for step, _ in written] == [2, 4, 6]
    assert {thread for _, thread in written} == {"checkpoint_0"}
    for step, path in numbered(run_dir).items():
        one, other = load(path), load(numbered(whole)[step]) if step in numbered(whole) else None
        if other is not None:
            assert_close(one["state_dict"], other["state_dict"], rtol=0, atol=0)
            assert_close(one["optimizer_states"], other["optimizer_states"], rtol=0, atol=0)
    assert list(numbered(run_dir)) == [2, 4, 6]
    answer = train(cache, run_dir, *BACKGROUND)
    assert answer.code == 0, answer.err
    assert f"continuing {run_dir} at step 6" in answer.out
    assert_same_run(run_dir, whole)
    assert list(numbered(run_dir)) == list(numbered(whole))


def test_training_goes_on_while_one_is_written_and_waits_at_the_next(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, end = threading.Event(), Checkpoints.on_train_batch_end
    reached: list[int] = []

    def step(self: Checkpoints, trainer: Any, *rest: Any) -> None:
        reached.append(trainer.global_step)
        if trainer.global_step == 3:
            assert not last(tmp_path / "run").exists()
            held.set()
        end(self, trainer, *rest)
        if trainer.global_step == 4:
            assert load(last(tmp_path / "run"))["global_step"] == 2

    save = torch.save

    def wait(checkpoint: Any, file: Any) -> None:
        assert held.wait(60)
        time.sleep(0.2 * (checkpoint["global_step"] == 4))
        save(checkpoint, file)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", step)
    monkeypatch.setattr(checkpoint_io.torch, "save", wait)
    assert train(cache, tmp_path / "run", *BACKGROUND, "max_steps=4").code == 0
    assert reached == [1, 2, 3, 4]
    assert load(last(tmp_path / "run"))["global_step"] == 4


@pytest.mark.parametrize("background", ["true", "false"])
@pytest.mark.parametrize(("step", "number"), [(4, errno.ENOSPC), (8, errno.EACCES)])
def test_a_write_that_fails_ends_the_run_with_the_same_message(
    number: int, step: int, background: str, cache: Path, train: Callable, whole: Path, tmp_path: Path
) -> None:
    """Also where it is the last one of the run."""
    run_dir, words = tmp_path / "run", [*KEPT, f"checkpoint.background={background}"]
    with slow_writer(0.05, fail_at=step, number=number):
        answer = train(cache, run_dir, *words)
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert re.search(rf"cannot write .+/last\.ckpt \([\d,]+ MiB are free there\): {os.strerror(number)}", answer.err)
    assert load(last(run_dir))["global_step"] == step - 2
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == sorted(
        ["last.ckpt", *(f"step-{kept:08d}.ckpt" for kept in range(2, step, 2))]
    )
    answer = train(cache, run_dir, *words)
    assert answer.code == 0, answer.err
    assert_same_run(run_dir, whole)


def test_an_exception_waits_for_what_is_being_written_and_is_what_is_reported(
    cache: Path, train: Callable, power_cut: Callable, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with slow_writer(), power_cut(4):
        train(cache, run_dir, *BACKGROUND)
    assert load(last(run_dir))["global_step"] == 4
    with slow_writer(fail_at=6), power_cut(6):
        train(cache, run_dir, *BACKGROUND)
    assert load(last(run_dir))["global_step"] == 4


PROCESS = """
import os, sys, time, torch
save, die = torch.save, int(sys.argv.pop(1))

class Dying:
    def __init__(self, file):
        self.file, self.left = file, 100_000

    def write(self, content):
        self.left -= len(content)
        if self.left < 0:
            self.file.flush()
            os.kill(os.getpid(), 9)
        return self.file.write(content)

    def __getattr__(self, name):
        return getattr(self.file, name)

def slow(checkpoint, file):
    print("writing", checkpoint["global_step"], flush=True)
    time.sleep(0.7)
    save(checkpoint, Dying(file) if checkpoint["global_step"] == die else file)

torch.save = slow
from ldm_train.cli.main import main
main()
"""


def start(cache: Path, run_dir: Path, words: list[str], *, die: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(die), "train", f"cache={cache}", f"run_dir={run_dir}", *words, *BACKGROUND]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


@pytest.mark.slow
def test_a_kill_while_one_is_written_leaves_the_one_before(
    cache: Path, train: Callable, train_words: list[str], whole: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = start(cache, run_dir, train_words, die=4)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == -signal.SIGKILL, said
    assert damage(last(run_dir)) is None
    assert load(last(run_dir))["global_step"] == 2
    answer = train(cache, run_dir, *BACKGROUND)
    assert answer.code == 0, answer.err
    assert f"continuing {run_dir} at step 2" in answer.out
    assert_same_run(run_dir, whole)


@pytest.mark.slow
def test_a_signal_waits_for_the_checkpoint_of_its_step(
    cache: Path, train: Callable, train_words: list[str], whole: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = start(cache, run_dir, train_words, die=0)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("writing 2"))
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[0]
    saved = int(re.findall(r"writing (\d+)", said)[-1]) if "writing" in said else 2
    assert process.returncode not in (0, 1, -signal.SIGTERM), said
    assert load(last(run_dir))["global_step"] == saved
    answer = train(cache, run_dir, *BACKGROUND)
    assert answer.code == 0, answer.err
    assert_same_run(run_dir, whole)


# Loading


@pytest.mark.parametrize("background", ["true", "false"])
def test_a_continued_run_does_not_hold_the_file_that_it_came_from(
    background: str, copied: Path, cache: Path, train: Callable, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was mapped, and overwriting it in place would change what is still mapped, or end the process."""
    end, held = Checkpoints.on_train_batch_end, []

    def look(self: Checkpoints, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == 7:
            held.extend(line for line in Path("/proc/self/maps").read_text().splitlines() if ".ckpt" in line)
            with last(copied).open("r+b") as file:
                file.write(bytes(last(copied).stat().st_size))
        end(self, trainer, *rest)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", look)
    answer = train(cache, copied, *KEPT, f"checkpoint.background={background}")
    assert answer.code == 0, answer.err
    assert held == []
    assert_same_run(copied, whole)
