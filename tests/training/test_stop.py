"""Runs that get a signal to stop: saved at a step's end, left with exit code 75, and continued bit for bit."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from ldm_train.util.files import temporary_path

DRIVER = Path(__file__).with_name("signalled.py")
QUIET = ["pictures.prompts=[]", "pictures.every=1000", "validation.every=1000"]
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
INTERRUPTED = 75
SLOW = 300.0  # seconds that a process may take to start or end on a busy machine


def checkpoint(run_dir: Path) -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(run_dir: Path, whole: Path) -> None:
    """Weights, averages, the optimizer's state and the metrics, bit for bit."""
    one, other = checkpoint(run_dir), checkpoint(whole)
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert_close(one[part], other[part], rtol=0, atol=0)
    assert_close(one["callbacks"]["EMA"]["average"], other["callbacks"]["EMA"]["average"], rtol=0, atol=0)
    assert lines(run_dir) == lines(whole)


@contextmanager
def signals_at(owner: type, name: str, step: int, *numbers: int, after: bool = False) -> Iterator[None]:
    """This process gets signals when a method of a callback is called at a step, before it does its work or after."""
    original = getattr(owner, name)

    def send_too(self: Any, trainer: Any, *rest: Any) -> Any:
        if trainer.global_step == step and not after:
            for number in numbers:
                os.kill(os.getpid(), number)
        result = original(self, trainer, *rest)
        if trainer.global_step == step and after:
            for number in numbers:
                os.kill(os.getpid(), number)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, send_too)
        yield


@pytest.fixture(autouse=True)
def handlers_are_given_back() -> Iterator[None]:
    """Whatever a run in this process comes to."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


@pytest.fixture(scope="module")
def whole(run_with: Callable) -> Path:
    """The run that nobody stopped."""
    return run_with(*QUIET)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_saves_and_leaves_and_the_same_command_goes_on(
    number: signal.Signals, cache: Path, train: Callable, whole: Path, tmp_path: Path
) -> None:
    from ldm_train.training.callbacks.stop import Stop

    run_dir = tmp_path / "run"
    with signals_at(Stop, "on_train_batch_end", 5, number):
        answer = train(cache, run_dir, *QUIET)
    assert answer.code == INTERRUPTED
    assert f"stopped by {number.name} and saved in {run_dir}" in answer.out
    assert "exit code 75" in answer.out
    assert checkpoint(run_dir)["global_step"] == 5, "where none was due"
    answer = train(cache, run_dir, *QUIET)
    assert answer.code == 0, answer.err
    assert f"continuing {run_dir} at step 5" in answer.out
    assert_same_run(run_dir, whole)


@pytest.mark.parametrize(
    ("when", "words", "stops_at"),
    [
        ("validation", ["validation.every=4", "pictures.prompts=[]"], 5),
        ("pictures", ["pictures.every=4", "pictures.count=1", "validation.every=1000"], 5),
        ("saving", [*QUIET, "checkpoint.every=4"], 5),
        ("first of several micro-batches", [*QUIET, "micro_batch_size=1"], 5),
        ("first of several micro-batches", [*QUIET, "micro_batch_size=1", "max_steps=5"], None),
        ("last step", [*QUIET, "max_steps=4"], None),
    ],
)
def test_it_is_honoured_at_the_end_of_a_step_whenever_it_comes(
    when: str, words: list[str], stops_at: int | None, cache: Path, train: Callable, tmp_path: Path
) -> None:
    from ldm_train.training.base_module import Training
    from ldm_train.training.callbacks.samples import Samples
    from ldm_train.training.callbacks.stop import Stop
    from ldm_train.training.checkpoints.checkpoint_callback import Checkpoints
    from ldm_train.training.validation.validation_callback import ValidationCallback

    moment = {
        "validation": lambda: signals_at(ValidationCallback, "on_train_batch_end", 4, signal.SIGTERM, after=True),
        "pictures": lambda: signals_at(Samples, "on_train_batch_end", 4, signal.SIGTERM),
        "saving": lambda: signals_at(Checkpoints, "_save", 4, signal.SIGTERM, after=True),
        "first of several micro-batches": lambda: micro_batch_of(Training, 5, signal.SIGTERM),
        "last step": lambda: signals_at(Stop, "on_train_batch_end", 4, signal.SIGTERM),
    }[when]
    with moment():
        answer = train(cache, tmp_path / "run", *words)
    assert answer.code == (0 if stops_at is None else INTERRUPTED)
    assert (
        checkpoint(tmp_path / "run")["global_step"]
        == lines(tmp_path / "run")[-1]["step"]
        == (stops_at or len(lines(tmp_path / "run")))
    )


@contextmanager
def micro_batch_of(owner: type, step: int, number: int) -> Iterator[None]:
    """A signal before the first micro-batch of a step."""
    original = owner.on_train_batch_start  # type: ignore[attr-defined]

    def send_too(self: Any, batch: object, batch_idx: int) -> None:
        if batch_idx == (step - 1) * self.trainer.accumulate_grad_batches:
            os.kill(os.getpid(), number)
        original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, "on_train_batch_start", send_too)
        yield


def test_a_signal_that_arrives_twice_at_once_is_one(cache: Path, train: Callable, tmp_path: Path) -> None:
    """As from a terminal's Ctrl-C and from a launcher that passes it on."""
    from ldm_train.training.callbacks.stop import Stop

    with signals_at(Stop, "on_train_batch_end", 2, signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        answer = train(cache, tmp_path / "run", *QUIET)
    assert answer.code == INTERRUPTED
    assert checkpoint(tmp_path / "run")["global_step"] == 2


def test_stderr_that_nobody_reads_does_not_keep_a_run_from_saving(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.training.callbacks import stop

    def broken(descriptor: int, content: bytes) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(stop.os, "write", broken)
    with signals_at(stop.Stop, "on_train_batch_end", 2, signal.SIGTERM):
        answer = train(cache, tmp_path / "run", *QUIET)
    assert answer.code == INTERRUPTED


def test_handlers_are_given_back_by_a_run_that_fails(cache: Path, train: Callable, tmp_path: Path) -> None:
    """The fixture above looks at them."""
    from ldm_train.training.checkpoints.checkpoint_callback import Checkpoints

    def fail(*arguments: object, **more: object) -> None:
        raise OSError("out of order")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "_save", fail)
        assert train(cache, tmp_path / "run", *QUIET).code == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "setup", fail)
        assert train(cache, tmp_path / "other", *QUIET).code == 1


# A limit of time


def test_max_time_saves_and_leaves_and_the_same_command_goes_on(
    cache: Path, train: Callable, whole: Path, tmp_path: Path
) -> None:
    """A limit that has always passed allows a step each time."""
    run_dir = tmp_path / "run"
    for step in (1, 2):
        answer = train(cache, run_dir, *QUIET, "max_time=00:00:00")
        assert answer.code == INTERRUPTED
        assert "stopped by max_time" in answer.out
        assert checkpoint(run_dir)["global_step"] == step
    assert train(cache, run_dir, *QUIET, "max_time=1-00:00:00").code == 0
    assert_same_run(run_dir, whole)


@pytest.mark.parametrize("words", ["90", "1:30", "soon", "1h", "-1:00:00", "1:2:3"])
def test_a_limit_that_is_no_time_is_refused(words: str, cache: Path, train: Callable, tmp_path: Path) -> None:
    answer = train(cache, tmp_path / "run", f"max_time='{words}'")
    assert answer.code == 1
    assert f"max_time={words} must be hours:minutes:seconds" in answer.err
    assert not (tmp_path / "run").exists()


# Before there is anything to save


def test_ctrl_c_while_loading_ends_without_a_trace(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.commands.train import command as task

    def interrupted(config: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(task, "open_data", interrupted)
    answer = train(cache, tmp_path / "run")
    assert answer.code == 128 + signal.SIGINT
    assert answer.err == "ldm-train: interrupted\n"
    assert not (tmp_path / "run").exists()


# Real processes


Start = Callable[[list[str], Path], "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """`start(words, pids)`: Python with these words in a process group of its own, of which nothing outlives the tests."""
    started: list[subprocess.Popen[str]] = []

    def popen(words: list[str], pids: Path) -> "subprocess.Popen[str]":
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PIDS": str(pids)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, *words]
        process = subprocess.Popen(command, env=environment, text=True, cwd=pids, start_new_session=True, **pipes)
        started.append(process)
        return process

    yield popen
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def group(leader: int) -> list[int]:
    """The processes of a group, those too that have ended and that nobody asked about."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            own, _, rest = status.read_text().partition(" (")
            found += [int(own)] if int(rest.rpartition(")")[2].split()[2]) == leader else []
    return found


def wait_for(done: Callable[[], bool], seconds: float, process: subprocess.Popen[str] | None = None) -> float:
    """How long it took, s."""
    started = time.monotonic()
    while not done():
        assert time.monotonic() < started + seconds, "in time"
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.05)
    return time.monotonic() - started


def pid(folder: Path, rank: int) -> int:
    return int((folder / f"rank-{rank}").read_text())


def test_a_second_signal_ends_at_once_and_leaves_the_last_checkpoint(
    start: Start, cache: Path, train: Callable, train_words: list[str], whole: Path, tmp_path: Path
) -> None:
    """The first at step 4, which is then being saved when the second comes."""
    run_dir = tmp_path / "run"
    words = ["train", f"cache={cache}", f"run_dir={run_dir}", *train_words, *QUIET]
    signals = [{"number": 10, "step": 4, "moment": "step"}, {"number": 15, "step": 4, "moment": "writing"}]
    process = start([str(DRIVER), json.dumps([{"words": words, "signals": signals}])], tmp_path)
    _, err = process.communicate(timeout=SLOW)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "SIGUSR1: saving at the end of a step" in err
    assert "SIGTERM again: exiting at once" in err
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {
        *("last.ckpt", temporary_path(run_dir / "last.ckpt").name)
    }
    assert checkpoint(run_dir)["global_step"] == 3
    answer = train(cache, run_dir, *QUIET)
    assert answer.code == 0, answer.err
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["last.ckpt"]
    assert_same_run(run_dir, whole)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_all_processes_and_is_reported_once(
    start: Start, cache: Path, train_words: list[str], tmp_path: Path
) -> None:
    """Two ranks with two loader workers each, all in one process group."""
    run_dir = tmp_path / "run"
    words = ["train", f"cache={cache}", f"run_dir={run_dir}", *train_words, *QUIET, "workers=2", "max_steps=100000"]
    more = ["trainer.devices=2", "trainer.strategy=ddp", "lr_schedule=constant"]
    process = start(["-m", "ldm_train", *words, *more], tmp_path)
    metrics = run_dir / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and len(lines(run_dir)) > 3, SLOW, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=SLOW)
    assert process.returncode == INTERRUPTED, out + err
    assert err.count("SIGINT") == 1
    assert out.count("stopped by SIGINT") == 1
    assert "Traceback" not in err
    assert checkpoint(run_dir)["global_step"] == lines(run_dir)[-1]["step"]
    wait_for(lambda: all(ended(member) for member in group(process.pid)), 10)


@pytest.mark.slow
def test_a_terminal_that_is_closed_costs_no_step(cache: Path, train_words: list[str], tmp_path: Path) -> None:
    """As when a connection is lost: the process leads the terminal's session, and has nobody to print to any more."""
    run_dir = tmp_path / "run"
    words = ["train", f"cache={cache}", f"run_dir={run_dir}", *train_words, *QUIET, "max_steps=100000"]
    lead = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from ldm_train.cli.main import main; main()"
    controller, terminal_end = os.openpty()
    command = [sys.executable, "-c", lead, *words, "lr_schedule=constant"]
    process = subprocess.Popen(
        command, stdin=terminal_end, stdout=terminal_end, stderr=terminal_end, start_new_session=True, cwd=tmp_path
    )
    os.close(terminal_end)
    try:
        wait_for(lambda: (run_dir / "metrics.jsonl").is_file() and len(lines(run_dir)) > 3, SLOW, process)
        os.close(controller)
        assert process.wait(SLOW) == INTERRUPTED
    finally:
        process.kill()
        process.wait()
    assert checkpoint(run_dir)["global_step"] == lines(run_dir)[-1]["step"]


@pytest.fixture(scope="module")
def two_ranks(start: Start, cache: Path, train_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs on two processes: `whole`, and `stopped` by signals to one of them, then to the other."""
    folder = tmp_path_factory.mktemp("two")

    def job(name: str, *signals: dict[str, object]) -> dict[str, object]:
        words = ["train", f"cache={cache}", f"run_dir={folder / name}", *train_words, *QUIET, "trainer.devices=2"]
        return {"words": [*words, "trainer.strategy=ddp"], "signals": signals}

    jobs = [
        job("whole"),
        job("stopped", {"number": 15, "rank": 0, "step": 2, "moment": "step"}),
        job("stopped", {"number": 10, "rank": 1, "step": 5, "moment": "step"}),
        job("stopped"),
    ]
    process = start(["-m", "torch.distributed.run", "--nproc_per_node=2", str(DRIVER), json.dumps(jobs)], folder)
    out, err = process.communicate(timeout=SLOW)
    assert process.returncode == 0, out + err
    assert "Traceback" not in err
    (folder / "out").write_text(out)
    return folder


@pytest.mark.slow
def test_a_signal_to_any_rank_stops_all_at_the_same_step(two_ranks: Path) -> None:
    out = (two_ranks / "out").read_text()
    found = re.findall(r"stopped by (\w+)|continuing .+ at (step \d)", out)
    assert ["".join(parts) for parts in found] == ["SIGTERM", "step 3", "SIGUSR1", "step 6"], "a step later"
    codes = [[(two_ranks / f"code-{job}-of-rank-{rank}").read_text() for rank in (0, 1)] for job in range(4)]
    assert codes == [["0", "0"], ["75", "0"], ["75", "0"], ["0", "0"]]
    assert_same_run(two_ranks / "stopped", two_ranks / "whole")


@pytest.mark.parametrize("killed", [1, 0])
def test_a_killed_rank_takes_the_others_along(
    killed: int, start: Start, cache: Path, train: Callable, train_words: list[str], whole: Path, tmp_path: Path
) -> None:
    """Within a minute, where they would wait for it for ever; the last checkpoint is continued."""
    run_dir = tmp_path / "run"
    words = ["train", f"cache={cache}", f"run_dir={run_dir}", *train_words, *QUIET, "trainer.devices=2"]
    signals = [{"number": 9, "rank": killed, "step": 5, "moment": "step"}]
    job = {"words": [*words, "trainer.strategy=ddp"], "signals": signals}
    process = start([str(DRIVER), json.dumps([job])], tmp_path)
    wait_for(lambda: all((tmp_path / f"rank-{rank}").is_file() for rank in (0, 1)), SLOW, process)
    wait_for(lambda: ended(pid(tmp_path, killed)), SLOW)
    took = wait_for(lambda: ended(pid(tmp_path, 1 - killed)), 60)
    print(f"rank {1 - killed} ended {took:.1f} s after rank {killed}")
    process.communicate(timeout=SLOW)
    assert process.returncode not in (0, INTERRUPTED)
    assert checkpoint(run_dir)["global_step"] == 3
    answer = train(cache, run_dir, *QUIET)
    assert answer.code == 0, answer.err
    assert "note: devices changed" in answer.out.replace("git, ", "")
    assert [line["step"] for line in lines(run_dir)] == list(range(1, 9))
