"""Optimizers of other libraries on parameters that two processes share: as on one, and continued bit for bit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.training.optimization.test_sharding import DOUBLE, lines, state

pytest.importorskip("pytorch_optimizer", reason="pytorch_optimizer is not installed")
pytestmark = pytest.mark.slow

SHARDED = {
    "schedule_free": ["optimizer=schedule_free", "lr_schedule=constant"],
    "lion": ["optimizer=lion", "optimizer.lr=1e-4"],
    "muon": ["optimizer=muon"],
}
QUIET = ["pictures.prompts=[]", "validation.every=100"]


@pytest.fixture(scope="module")
def runs(cache: Path, train_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs on two processes: for each optimizer one, and one that was cut at step 6 and continued at step 3."""
    folder = tmp_path_factory.mktemp("sharded")

    def job(name: str, *more: str, **settings: int) -> dict[str, object]:
        words = [
            "checkpoint.shares=true",
            *train_words,
            DOUBLE,
            "trainer.devices=2",
            "trainer.strategy=fsdp2",
            *QUIET,
            *more,
        ]
        return {
            "words": ["train", f"cache={cache}", f"run_dir={folder / name}", *words],
            **settings,
        }

    jobs = []
    for name, words in SHARDED.items():
        jobs += [job(name, *words), job(f"{name}-cut", *words, cut_at=6), job(f"{name}-cut", *words)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", Path(__file__).parents[1] / "driver.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, json.dumps(jobs)], capture_output=True, text=True, check=False, timeout=500, env=environment, cwd=folder
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


@pytest.mark.parametrize("name", SHARDED)
def test_a_sharded_run_continues_bit_for_bit(name: str, runs: Path) -> None:
    assert lines(runs / f"{name}-cut") == lines(runs / name)
    torch.testing.assert_close(state(runs / f"{name}-cut"), state(runs / name), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "most"), [("schedule_free", 1e-10), ("lion", 1e-4), ("muon", 1e-2)])
def test_a_sharded_run_equals_that_of_one_process(name: str, most: float, runs: Path, run_with: Callable[..., Path]) -> None:
    """Muon computes in bfloat16, whose rounding follows the order of the sums, and so do the signs that Lion takes of 0."""
    actual, expected = state(runs / name), state(run_with(DOUBLE, *QUIET, *SHARDED[name]))
    assert actual.keys() == expected.keys()
    ours, theirs = (torch.cat([values[key].double().flatten() for key in expected]) for values in (actual, expected))
    assert (ours - theirs).norm() < most * theirs.norm()
