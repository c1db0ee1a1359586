"""Train the same small network with each optimizer for the same steps: held-out loss, time of a step, memory.

    python scripts/benchmark_optimizers.py cache=caches/openmoji --out docs/results/optimizers.json

The data are the quick start's (its scripts/quickstart.sh makes the cache), the network is smaller. Each optimizer is tried
at several rates: its own default times --factors, because the defaults are for large networks. Prodigy, which finds its
rate, is tried once. The loss is of the averaged weights on held-out examples. Seconds are of the processor, not of the
clock, so that other work on the machine counts little. Further words change the run.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from measuring import machine_times, others_share, write_results
from torch import Tensor

from ldm_train.cli.main import main as ldm_train
from ldm_train.settings.shipped import shipped
from ldm_train.training.base_module import Training

OPTIMIZERS = ("adamw", "adafactor", "lion", "muon", "prodigy", "schedule_free", "soap")
FINDS_ITS_RATE = ("prodigy",)
RUN = [
    *(
        "experiment=openmoji",
        "network.channels=[16,32]",
        "network.head_size=8",
        "batch_size=16",
        "threads=1",
        "trainer.accelerator=cpu",
    ),
    *("pictures.prompts=[]", "metrics.every=null", "validation.every=1000000", "validation.repeats=4"),
    *("lr_schedule.warmup_steps=20", "trainer.log_every_n_steps=50"),
]


@contextmanager
def timed_steps() -> Iterator[list[float]]:
    """Collect the processor's seconds of each step of the runs within the context."""
    marks: list[float] = []
    start = Training.on_train_batch_start

    def mark(self: Training, batch: object, batch_idx: int) -> None:
        marks.append(time.process_time())
        start(self, batch, batch_idx)

    Training.on_train_batch_start = mark  # type: ignore[method-assign]
    try:
        yield marks
    finally:
        Training.on_train_batch_start = start  # type: ignore[method-assign]


def count_numbers(value: object) -> int:
    """Return how many numbers a nested value's tensors have, without counts of steps."""
    if isinstance(value, Tensor):
        return value.numel() if value.ndim else 0
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(count_numbers, items))


def train(name: str, rate: float, words: Sequence[str], *, seed: int) -> dict[str, float]:
    """Return a run's held-out loss, the seconds of its steps, and how many numbers its optimizer keeps for each weight."""
    schedule = ["lr_schedule=constant"] if name == "schedule_free" else []
    folder = Path(tempfile.mkdtemp(prefix="optimizers-"))
    run = [f"run_dir={folder / 'run'}", f"optimizer={name}", f"optimizer.lr={rate:g}", *schedule, f"seed={seed}"]
    try:
        with timed_steps() as marks:
            try:
                ldm_train(["train", *RUN, *run, *words])
            except SystemExit as ended:
                if ended.code:
                    raise
        lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
        checkpoint: dict[str, Any] = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    weights = sum(value.numel() for value in checkpoint["callbacks"]["EMA"]["average"].values())
    return {
        "validation_loss": next(line["validation_loss"] for line in reversed(lines) if "validation_loss" in line),
        "step_s": statistics.median(b - a for a, b in pairwise(marks)),
        "numbers_per_weight": count_numbers(checkpoint["optimizer_states"][0]["state"]) / weights,
    }


def measure(name: str, words: Sequence[str], *, factors: Sequence[float], seeds: int) -> dict[str, object]:
    """Return the figures of the rate with the lowest mean loss over the seeds, and the loss at each rate."""
    default = float(shipped(f"optimizer/{name}")["lr"])
    rates = [default] if name in FINDS_ITS_RATE else [default * factor for factor in factors]
    runs = {rate: [train(name, rate, words, seed=seed) for seed in range(seeds)] for rate in rates}
    losses = {rate: statistics.mean(run["validation_loss"] for run in runs[rate]) for rate in rates}
    best = min(rates, key=lambda rate: losses[rate])
    figures = {key: statistics.mean(run[key] for run in runs[best]) for key in runs[best][0]}
    return {"lr": best, **figures, "losses": {f"{rate:g}": loss for rate, loss in losses.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--factors", type=float, nargs="+", default=[10, 30])
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=OPTIMIZERS)
    parser.add_argument("--out", type=Path)
    options, words = parser.parse_known_args()
    words, before = [f"max_steps={options.steps}", *words], machine_times()
    figures = {name: measure(name, words, factors=options.factors, seeds=options.seeds) for name in options.optimizers}
    results = {"steps": options.steps, "seeds": options.seeds, "optimizers": figures}
    print(json.dumps(results, indent=2))
    write_results(options.out, results | {"others_share": others_share(before, machine_times())})


if __name__ == "__main__":
    main()
