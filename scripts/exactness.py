"""Train the same run in many ways, and compare: it is a function of config, data and seed, whatever else is otherwise.

    python scripts/exactness.py --out docs/results/exactness.json
    python scripts/exactness.py --steps 20 --only "two processes" sharded

Each run is processes of its own, as anybody starts them, on pictures that are drawn here: a small U-Net with its text
encoder, a global batch of 8, AdamW at a constant 1e-3. Divided among processes and micro-batches in other ways, the numbers
may differ by rounding, for sums have another order: in float32, and so much less in float64 that nothing else can hide
behind it. With other loader workers, other callbacks, or interruptions, nothing may differ at all. Exit code 1: something
was further off than that.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from measuring import drawn, write_results
from torch import Tensor

SIDE, PICTURES, HELD_OUT = 16, 48, 8
REFERENCE = "one process"
SEVERAL = "two processes"
LIMITS = {"32-true": (1e-5, 1e-4), "64-true": (1e-10, 1e-10)}  # of the losses, and of weights and averages
TEXT = ["text_encoder.width=16", "text_encoder.layers=1", "text_encoder.heads=2"]
SETTINGS = [
    *("network.channels=[16,32]", "network.head_size=8", "network.expansion=1", "threads=1", "batch_size=8"),
    *("optimizer.lr=1e-3", "lr_schedule=constant", "lr_schedule.warmup_steps=0", "ema=power"),
    *("offset_noise=0.1", "input_perturbation=0.1", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"),
    *("pictures.steps=4", "pictures.count=2", "validation.repeats=1"),
    *("metrics.steps=2", "metrics.count=4"),
]
SELDOM = [
    *("pictures.every=1000000", "validation.every=1000000", "checkpoint.every=1000000", "ema.snapshot_every=1000000"),
    "metrics.every=1000000",
]
OFTEN = [
    *("pictures.every=1", "validation.every=1", "metrics.every=10", "checkpoint.every=1", "ema.snapshot_every=10"),
    "sampler=ddpm",
]
TWO = ("trainer.devices=2", "trainer.strategy=ddp")
ALONE = ("trainer.devices=1", "trainer.strategy=auto")


@dataclass(frozen=True)
class Case:
    """One way to train.

    Args:
        way: overrides until the run is interrupted, or to its end.
        then: overrides of the command that continues it; None where it is not interrupted.
        like: the run that it must equal.
        bitwise: in every bit, not to rounding.
    """

    way: Sequence[str] = ()
    then: Sequence[str] | None = None
    like: str = REFERENCE
    bitwise: bool = False


CASES = {
    SEVERAL: Case(TWO),
    "accumulation 4": Case(["micro_batch_size=2"]),
    "two processes, accumulation 2": Case([*TWO, "micro_batch_size=2"]),
    "sharded": Case(["trainer.devices=2", "trainer.strategy=fsdp2"]),
    "two loader workers": Case(["workers=2"], bitwise=True),
    "watched at every step": Case(OFTEN, bitwise=True),
    "interrupted": Case([], [], bitwise=True),
    "two processes, interrupted": Case(TWO, TWO, like=SEVERAL, bitwise=True),
    "one process, then two": Case([], TWO),
    "two processes, then one": Case(TWO, ALONE),
    "accumulation 1, then 4": Case([], ["micro_batch_size=2"]),
}


@dataclass(frozen=True)
class Difference:
    """Between two runs, relative: the largest of any step's loss, and the L2 norms of weights and averages."""

    loss: float
    weights: float
    averages: float
    bitwise: bool

    def fits(self, precision: str, *, bitwise: bool) -> bool:
        losses, weights = LIMITS[precision]
        near = self.loss <= losses and max(self.weights, self.averages) <= weights
        return near and (self.bitwise or not bitwise)


class Runs:
    """Trains in a folder, each way once.

    Args:
        steps: of every run.
        cut: the step after which an interruption comes.
    """

    def __init__(self, folder: Path, *, steps: int, cut: int | None = None) -> None:
        self.folder = folder
        self.steps = steps
        self.cut = steps // 3 if cut is None else cut
        self.cut_at: dict[str, int] = {}

    def encode(self) -> None:
        """Draw the pictures, some of them with two captions, and make a cache of two views of each."""
        source = self.folder / "pictures"
        source.mkdir()
        rows = []
        for number in range(PICTURES):
            drawn(number, SIDE).save(source / f"{number:02}.png")
            texts = [f"wave number {number}", f"a wave of kind {number % 5}"][: 1 + number % 2]
            split = {} if number % (PICTURES // HELD_OUT) else {"split": "held_out"}
            rows.append(json.dumps({"file_name": f"{number:02}.png", "text": texts} | split) + "\n")
        (source / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
        words = [f"source.path={source}", f"cache={self.folder / 'cache'}", "autoencoder=identity", f"image_size={SIDE}"]
        self._finish(self._start("encode", *words, "crop.mirrored=true", "dtype=float32", *TEXT), 0)

    def __call__(self, name: str, case: Case, precision: str) -> Path:
        """The directory of a run that is there, or is trained now.

        Raises:
            SystemExit: a process fails, or could not be interrupted in time.
        """
        run_dir = self.folder / re.sub(r"\W+", "-", f"{name} {precision}")
        if not run_dir.exists():
            words = [f"cache={self.folder / 'cache'}", f"run_dir={run_dir}", f"max_steps={self.steps}", *SETTINGS, *SELDOM]
            words = [*words, f"trainer.precision={precision}"]
            self.train(run_dir, [*words, *case.way], None if case.then is None else [*words, *case.then])
        return run_dir

    def train(self, run_dir: Path, words: Sequence[str], then: Sequence[str] | None) -> None:
        """Train by these words; where others are given, until a SIGTERM comes, and on by those."""
        process = self._start("train", *words)
        if then is None:
            self._finish(process, 0)
            return
        while process.poll() is None and steps_taken(run_dir) < self.cut:
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        self._finish(process, 75)
        said = self._finish(self._start("train", *then), 0)
        step = re.search(r"^continuing .* at step (\d+)$", said, re.MULTILINE)
        assert step is not None, said
        self.cut_at[run_dir.name] = int(step[1])

    def _start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ldm_train", *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipe, reported = subprocess.PIPE, subprocess.STDOUT
        return subprocess.Popen(command, stdout=pipe, stderr=reported, text=True, env=environment, cwd=self.folder)

    def _finish(self, process: subprocess.Popen[str], code: int) -> str:
        said = process.communicate()[0]
        if process.returncode != code:
            raise SystemExit(f"{process.args!r}\nended with {process.returncode}, not {code}:\n{said}")
        return said


def steps_taken(run_dir: Path) -> int:
    try:
        return (run_dir / "timing.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def logged(run_dir: Path, *names: str) -> Tensor:
    """Values of `metrics.jsonl`, (steps, names) float64."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1)), f"{run_dir}: steps are missing or doubled"
    return torch.tensor([[line[name] for name in names] for line in lines], dtype=torch.float64)


def state(run_dir: Path) -> dict[str, Tensor]:
    """Weights, averages and moments of a run's last checkpoint, each as one vector in float64."""
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    ema = checkpoint["callbacks"]["EMA"]
    parts = {
        "weights": checkpoint["state_dict"],
        "averages": {"average": ema["average"], **ema["others"]},
        "moments": checkpoint["optimizer_states"],
    }
    return {name: torch.cat([tensor.flatten().double() for tensor in tensors(part)]) for name, part in parts.items()}


def tensors(tree: object) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors(part)


def difference(ours: Path, theirs: Path) -> Difference:
    """How far a run is from another."""
    names = ("loss", "noise_mse", "grad_norm", "lr")
    (our_lines, our_state), (their_lines, their_state) = ((logged(path, *names), state(path)) for path in (ours, theirs))
    loss = ((our_lines - their_lines) / their_lines)[:, 0].abs().max().item()
    apart = {name: ((our_state[name] - whole).norm() / whole.norm()).item() for name, whole in their_state.items()}
    same = torch.equal(our_lines, their_lines) and all(torch.equal(our_state[n], their_state[n]) for n in their_state)
    return Difference(loss, apart["weights"], apart["averages"], same)


def compare(runs: Runs, names: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """Both precisions' differences by case, and what went beyond what is expected."""
    results: dict[str, object] = {}
    failures = []
    for precision in LIMITS:
        found: dict[str, object] = {}
        for name in names:
            case = CASES[name]
            other = runs(case.like, CASES.get(case.like, Case()), precision)
            run_dir = runs(name, case, precision)
            apart = difference(run_dir, other)
            fine = apart.fits(precision, bitwise=case.bitwise)
            print(row(f"{precision}: {name}", apart, case, fine=fine), flush=True)
            failures += [] if fine else [f"{precision}: {name}"]
            cut = runs.cut_at.get(run_dir.name)
            found[name] = asdict(apart) | {"like": case.like} | ({} if cut is None else {"interrupted_at": cut})
        results[precision] = found
    return results, failures


def row(name: str, apart: Difference, case: Case, *, fine: bool) -> str:
    numbers = "  ".join(f"{value:8.1e}" for value in (apart.loss, apart.weights, apart.averages))
    expected = "bit for bit" if case.bitwise else "to rounding"
    return f"{name:40}{numbers}  {'the same' if apart.bitwise else 'near':10}{expected:13}{'ok' if fine else 'FAILED'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="NAME")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    print(f"{'relative differences of':40}{'loss':>8}{'weights':>10}{'averages':>10}")
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), steps=arguments.steps)
        runs.encode()
        results, failures = compare(runs, arguments.only)
    limits = {precision: {"loss": loss, "weights": weights} for precision, (loss, weights) in LIMITS.items()}
    about = {"steps": arguments.steps, "torch": torch.__version__, "limits": limits, "failures": failures}
    write_results(arguments.out, about | results)
    for failure in failures:
        print(f"further off than expected: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
