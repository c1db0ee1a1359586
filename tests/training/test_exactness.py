"""The same run in float64, whose rounding hides nothing: divided, continued and loaded in other ways it is the same."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ldm_train.training.module import NoisePredictorTraining
from ldm_train.types import LatentBatch

STEPS, BATCH = 8, 4
DOUBLE = "trainer.precision=64-true"
ALIKE = [DOUBLE, "lr_schedule=constant"]  # whatever max_steps is
DROPPING = [*ALIKE, "network.dropout=0.2", "micro_batch_size=1", "health.every=4"]  # as often as the shorter run ends
SCRIPTS = Path(__file__).parents[2] / "scripts"


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def state(run_dir: Path) -> dict[str, Tensor]:
    """Weights and averages."""
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    return checkpoint["state_dict"] | {f"average {n}": t for n, t in checkpoint["callbacks"]["EMA"]["average"].items()}


def assert_near(run_dir: Path, other: Path) -> None:
    """All that is logged at every step, and all weights, to float64's rounding."""
    actual, reference = lines(run_dir / "metrics.jsonl"), lines(other / "metrics.jsonl")
    assert len(actual) == len(reference) == STEPS
    for one, line in zip(actual, reference, strict=True):
        common = one.keys() & line.keys()
        assert {"step", "loss", "noise_mse", "grad_norm", "lr"} <= common
        assert {n: one[n] for n in common} == pytest.approx({n: line[n] for n in common}, rel=1e-10, abs=0)
    assert_close(state(run_dir), state(other), rtol=1e-10, atol=1e-10)


def assert_every_position_once(seen_lines: Sequence[dict], steps: range) -> None:
    """Each step trains on its own positions of the run, in whatever micro-batches and processes."""
    by_step = {step: [p for line in seen_lines if line["step"] == step for p in line["positions"]] for step in steps}
    assert {line["step"] for line in seen_lines} == set(steps)
    assert {step: sorted(found) for step, found in by_step.items()} == {
        step: list(range(step * BATCH, (step + 1) * BATCH)) for step in steps
    }


@pytest.fixture
def seen_lines(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What is trained on in this process, a line a micro-batch."""
    found: list[dict] = []
    training_step = NoisePredictorTraining.training_step

    def recorded_step(self: NoisePredictorTraining, batch: LatentBatch, batch_idx: int) -> dict[str, Tensor]:
        found.append({"step": self.global_step, "positions": batch.positions.tolist(), "seed": torch.initial_seed()})
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(NoisePredictorTraining, "training_step", recorded_step)
    return found


# In one process


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_accumulation_changes_rounding_alone(micro_batch_size: int, run_with: Callable) -> None:
    assert_near(run_with(DOUBLE, f"micro_batch_size={micro_batch_size}"), run_with(DOUBLE))


def test_loader_workers_change_nothing(cache: Path, train: Callable, trained: Path, tmp_path: Path) -> None:
    assert train(cache, tmp_path / "run", "workers=2").code == 0
    assert (tmp_path / "run/metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()
    assert_close(state(tmp_path / "run"), state(trained), rtol=0, atol=0)


@pytest.mark.parametrize(("before", "after"), [("null", "1"), ("1", "null"), ("2", "1")])
def test_another_accumulation_continues_at_the_same_example(
    before: str,
    after: str,
    cache: Path,
    train: Callable,
    power_cut: Callable,
    run_with: Callable,
    seen_lines: list[dict],
    tmp_path: Path,
) -> None:
    whole, run_dir = run_with(DOUBLE), tmp_path / "run"
    with power_cut(4):
        train(cache, run_dir, DOUBLE, f"micro_batch_size={before}")
    seen_lines.clear()
    answer = train(cache, run_dir, DOUBLE, f"micro_batch_size={after}")
    assert answer.code == 0, answer.err
    assert_every_position_once(seen_lines, range(3, STEPS))
    assert_near(run_dir, whole)


# Dropout, whose masks are keyed by step, process and micro-batch


@pytest.mark.parametrize("words", [("network.dropout=0.2",), ("network.dropout=0.2", "micro_batch_size=1")])
def test_dropout_is_the_same_after_a_resume(
    words: tuple[str, ...],
    cache: Path,
    train: Callable,
    run_with: Callable,
    power_cut: Callable,
    seen_lines: list[dict],
    tmp_path: Path,
) -> None:
    whole, run_dir = run_with(*words), tmp_path / "run"
    with power_cut(4):
        train(cache, run_dir, *words)
    torch.manual_seed(54321)  # another process would be in another state
    seen_lines.clear()
    answer = train(cache, run_dir, *words)
    assert answer.code == 0, answer.err
    assert (run_dir / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert_close(state(run_dir), state(whole), rtol=0, atol=0)
    assert len({line["seed"] for line in seen_lines}) == len(seen_lines), "no two micro-batches share their masks"
    assert answer.out.count("note: dropout in networks") == 1


def test_dropout_is_the_same_where_blocks_are_computed_again(run_with: Callable) -> None:
    again = run_with("network.dropout=0.2", "network.gradient_checkpointing=true")
    assert_close(state(again), state(run_with("network.dropout=0.2")), rtol=0, atol=0)


# On two processes


@pytest.fixture(scope="module")
def two(cache: Path, train: Callable, train_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs on two processes: `continued` from one process's, `begun` to be continued, and with dropout."""
    folder = tmp_path_factory.mktemp("two")
    assert train(cache, folder / "continued", *ALIKE, "max_steps=4").code == 0
    (folder / "seen").mkdir()
    (folder / "masks").mkdir()

    def job(name: str, *words: str, **settings: str) -> dict[str, object]:
        several = ["trainer.devices=2", "trainer.strategy=ddp", "pictures.prompts=[]"]
        return {"words": ["train", f"cache={cache}", f"run_dir={folder / name}", *train_words, *several, *words], **settings}

    jobs = [
        job("continued", *ALIKE, seen=str(folder / "seen")),
        job("begun", *ALIKE, "max_steps=4"),
        job("dropping", *DROPPING, seen=str(folder / "masks")),
        job("dropping-begun", *DROPPING, "max_steps=4"),
        job("dropping-begun", *DROPPING),
    ]
    driver = Path(__file__).with_name("driver.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", driver, json.dumps(jobs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment, cwd=folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (folder / "stdout").write_text(ended.stdout)
    return folder


def seen_by_both(folder: Path) -> Iterator[dict]:
    for rank in (0, 1):
        yield from ({**line, "rank": rank} for line in lines(folder / f"{rank}.jsonl"))  # type: ignore[misc]


def test_two_processes_continue_what_one_began_at_the_same_example(two: Path, run_with: Callable) -> None:
    seen_lines = list(seen_by_both(two / "seen"))
    assert_every_position_once(seen_lines, range(4, STEPS))
    assert {line["rank"] for line in seen_lines} == {0, 1}
    assert_near(two / "continued", run_with(*ALIKE))


def test_one_process_continues_what_two_began_at_the_same_example(
    two: Path, cache: Path, train: Callable, run_with: Callable, seen_lines: list[dict], tmp_path: Path
) -> None:
    run_dir, whole = Path(shutil.copytree(two / "begun", tmp_path / "run")), run_with(*ALIKE)
    seen_lines.clear()
    answer = train(cache, run_dir, *ALIKE)
    assert answer.code == 0, answer.err
    assert_every_position_once(seen_lines, range(4, STEPS))
    assert_near(run_dir, whole)


def test_dropout_on_two_processes_is_the_same_after_a_resume(two: Path) -> None:
    assert lines(two / "dropping-begun/metrics.jsonl") == lines(two / "dropping/metrics.jsonl")
    assert_close(state(two / "dropping-begun"), state(two / "dropping"), rtol=0, atol=0)
    seeds = [line["seed"] for line in seen_by_both(two / "masks")]
    assert len(seeds) == 2 * 2 * STEPS
    assert len(set(seeds)) == len(seeds), "neither two processes nor two micro-batches share their masks"
    said = (two / "stdout").read_text()
    assert said.count("note: dropout in networks") == 3, "once in each of three starts, by one process"


# The script that tries it all


def test_an_interrupted_run_on_two_processes_ends_as_that_of_one(
    cache: Path, train_words: list[str], run_with: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By SIGTERM, in real processes, and continued by one."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from exactness import TWO, Runs, difference

    words = [DOUBLE, "max_steps=24", "pictures.prompts=[]", "validation.every=100"]
    run_dir, runs = tmp_path / "run", Runs(tmp_path, steps=24, cut=2)
    command = [f"cache={cache}", f"run_dir={run_dir}", *train_words, *words]
    runs.train(run_dir, [*command, *TWO], command)
    assert 2 <= runs.cut_at["run"] < 24
    apart = difference(run_dir, run_with(*words))
    assert apart.fits("64-true", bitwise=False)
    assert not apart.bitwise, "so the comparison compares"


def test_the_script_names_what_is_further_off_than_expected(
    trained: Path, run_with: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import exactness

    near, other = run_with("pictures.prompts=[]", "micro_batch_size=2"), run_with("seed=1")
    there = {"one process": trained, "interrupted": near, "accumulation 4": near, "two processes": other, "sharded": trained}
    monkeypatch.setattr(exactness.Runs, "__call__", lambda self, name, case, precision: there[name])
    monkeypatch.setattr(exactness.Runs, "encode", lambda self: None)
    monkeypatch.setattr(exactness, "LIMITS", {"32-true": (1e-5, 1e-4)})
    only = [name for name in there if name != "one process"]
    monkeypatch.setattr(sys, "argv", ["exactness.py", "--only", *only, "--out", str(tmp_path / "out.json")])
    with pytest.raises(SystemExit) as ended:
        exactness.main()
    assert ended.value.code == 1
    assert json.loads((tmp_path / "out.json").read_text())["failures"] == ["32-true: interrupted", "32-true: two processes"]
    assert "further off than expected: 32-true: interrupted\n" in capsys.readouterr().out
