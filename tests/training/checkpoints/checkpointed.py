"""Runs with checkpoints that tests look into."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.testing import assert_close

QUIET = ["pictures.prompts=[]", "pictures.every=1000", "validation.every=1000"]
KEPT = [*QUIET, "checkpoint.every=2", "checkpoint.keep=3"]


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def last(run_dir: Path) -> Path:
    return run_dir / "checkpoints/last.ckpt"


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(run_dir: Path, whole: Path) -> None:
    """Weights, averages, the optimizer's state and the metrics, bit for bit."""
    one, other = load(last(run_dir)), load(last(whole))
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert_close(one[part], other[part], rtol=0, atol=0)
    assert_close(one["callbacks"]["EMA"]["average"], other["callbacks"]["EMA"]["average"], rtol=0, atol=0)
    assert (run_dir / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
