"""Train the same network on pixels and on the latents of autoencoders with the factors 2, 4 and 8, for the same minutes.

    python scripts/compare_spaces.py outputs/spaces --out docs/results/spaces.json --plot docs/pictures/spaces.png

The pictures are the quick start's OpenMoji scenes, 64x64. Factor 1 is `autoencoder=identity`, factor 4 the shipped
autoencoder `openmoji`; those of the factors 2 and 8 are trained here first, for `--autoencoder-minutes` each. All have four
channels, so that only the factor differs, and all networks are `network=unet_small`.

Each run's number of steps is what its speed, measured first, makes of the minutes. Then the runs train by turns of `--turn`
seconds, so that a busy machine costs all alike. What is stopped goes on when the same command is given again.

A picture of 512x512 is 786,432 numbers, its latents 4x64x64 with factor 8 are 16,384: 48 times fewer.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import matplotlib
from measuring import write_results
from rich.console import Console
from rich.table import Table

from ldm_train.run_dir.reading import read_run
from ldm_train.training.run_files import INTERRUPTED
from ldm_train.util.files import atomic_write

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIDE, CHANNELS = 64, 4
FACTORS = (1, 2, 4, 8)
ARCHITECTURES = {2: "[16,64]", 8: "[16,32,96,128]"}  # of the autoencoders that are trained here
SHIPPED = {1: ["autoencoder=identity"], 4: ["autoencoder=openmoji"]}
MEASURES = ("retrieval_at_1", "drawing_psnr", "autoencoder_psnr", "kid_efficientnet_lite0")
NEVER = 1_000_000_000
MEMORY = "peak_memory.json"


@dataclass(frozen=True)
class Training:
    """A run that goes on where it stopped.

    Args:
        name: as progress is printed.
        words: the command, and its settings except for the run directory and the number of steps.
        minutes: of training; the number of steps is what its speed makes of them.
        batch_size: examples of a step.
        averaged: whether `ema.decay` is set to the number of steps, as the mean of the last 40 % or so.
    """

    name: str
    words: Sequence[str]
    run_dir: Path
    minutes: float
    batch_size: int
    averaged: bool = False

    def plan(self, seconds: float) -> int:
        """Return the number of steps, after training for so many seconds if the speed is not known yet."""
        planned = self.run_dir.with_name(f"{self.run_dir.name}-steps.json")
        if not planned.is_file():
            trial = self.run_dir.with_name(f"{self.run_dir.name}-trial")
            self._train(trial, steps=NEVER, seconds=seconds)
            speeds = read_run(trial).series["time/samples_per_second"].finite.values
            speed = statistics.median(speeds[1:] if len(speeds) > 1 else speeds)
            steps = max(1, round(60 * self.minutes * speed / self.batch_size))
            print(f"{self.name}: {speed:.1f} examples/s, {steps:,} steps", flush=True)
            atomic_write(planned, json.dumps({"minutes": self.minutes, "steps": steps, "examples_per_second": speed}) + "\n")
        plan = json.loads(planned.read_text(encoding="utf-8"))
        if plan["minutes"] != self.minutes:
            sys.exit(f"{planned} is of {plan['minutes']} minutes; give as many, or another folder")
        return int(plan["steps"])

    @property
    def step(self) -> int:
        return read_run(self.run_dir).step if self.run_dir.exists() else 0

    def go_on(self, steps: int, seconds: float) -> None:
        """Train for so many seconds, or to the end."""
        self._train(self.run_dir, steps=steps, seconds=seconds)
        print(f"{self.name}: step {self.step:,} of {steps:,}", flush=True)

    def _train(self, run_dir: Path, *, steps: int, seconds: float) -> None:
        words = [*self.words, f"run_dir={run_dir}", f"max_steps={steps}", f"max_time={timedelta(seconds=round(seconds))}"]
        words += ["trainer.log_every_n_steps=5", "checkpoint.every=1000000000", "pictures.every=1000000000"]
        words += [f"ema.decay={min(0.9999, max(0.0, 1 - 2.4 / steps)):.6f}"] if self.averaged else []
        peak = run_command(*words, accepted=(0, INTERRUPTED))
        known = json.loads((run_dir / MEMORY).read_text()) if (run_dir / MEMORY).is_file() else 0
        atomic_write(run_dir / MEMORY, json.dumps(max(peak, known)))


def run_command(*words: str, accepted: Sequence[int] = (0,)) -> int:
    """Run `ldm-train` and return the largest memory that it held, bytes; leave with what it printed if it fails."""
    command = [sys.executable, "-m", "ldm_train", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        printed = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accepted:
        sys.exit(f"{' '.join(command)}\n{printed[-2000:]}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def train_autoencoder(work: Path, pictures: Path, factor: int, *, minutes: float, trial: float) -> list[str]:
    """Return the settings of the autoencoder of a factor, after training it if it is not shipped."""
    if factor in SHIPPED:
        return SHIPPED[factor]
    run_dir = work / f"autoencoder-{factor}"
    words = ["train_autoencoder", f"source.path={pictures}", f"image_size={SIDE}", "batch_size=8"]
    words += [f"architecture.channels={ARCHITECTURES[factor]}", f"architecture.latent_channels={CHANNELS}"]
    training = Training(f"autoencoder with factor {factor}", words, run_dir, minutes, batch_size=8)
    if not (run_dir / "autoencoder" / "config.json").is_file():
        training.go_on(training.plan(trial), 12 * 3600)
    return ["autoencoder=pretrained", f"autoencoder.weights={run_dir / 'autoencoder'}"]


def prepare_run(work: Path, pictures: Path, factor: int, settings: Sequence[str], *, minutes: float) -> Training:
    """Encode the pictures, and return the run that trains on their latents."""
    cache = work / f"cache-{factor}"
    run_command("encode", f"source.path={pictures}", f"cache={cache}", f"image_size={SIDE}", "text_encoder=small", *settings)
    words = ["train", f"cache={cache}", "experiment=openmoji", "autoencoder=null", f"evaluation.source={pictures}"]
    words += ["validation.every=1000000000", "validation.repeats=1", "metrics.every=null"]
    words += ["pictures.count=1", "pictures.steps=1"]  # at the last step
    return Training(f"factor {factor}", words, work / f"run-{factor}", minutes, batch_size=24, averaged=True)


def measure(factor: int, training: Training, pictures: Path) -> dict[str, float | None]:
    """Return the figures of a finished run."""
    out = training.run_dir / "metrics.json"
    if not out.is_file():
        drawings = ["evaluation=drawings", f"evaluation.source={pictures}", "evaluation.seeds=1"]
        run_command("evaluate", f"run_dir={training.run_dir}", f"out={out}", *drawings)
    found = json.loads(out.read_text(encoding="utf-8"))
    figures: dict[str, float | None] = {name: found.get(name) for name in MEASURES}
    if factor == 1:
        figures["autoencoder_psnr"] = None  # pixels are kept exactly
    speeds = read_run(training.run_dir).series["time/samples_per_second"].finite.values
    numbers = 3 * SIDE**2 if factor == 1 else CHANNELS * (SIDE // factor) ** 2
    return {
        "numbers_per_picture": numbers,
        "times_fewer": 3 * SIDE**2 / numbers,
        **figures,
        "examples": training.step * training.batch_size,
        "examples_per_second": float(statistics.median(speeds)),
        "memory_gib": json.loads((training.run_dir / MEMORY).read_text()) / 2**30,
    }


def show(factors: Mapping[str, Mapping[str, float | None]]) -> None:
    """Print the table."""
    names = list(next(iter(factors.values())))
    table = Table("factor", *names)
    for factor, row in factors.items():
        table.add_row(factor, *("" if row[name] is None else f"{row[name]:.4g}" for name in names))
    Console().print(table)


def plot(factors: Mapping[str, Mapping[str, float | None]], path: Path) -> None:
    """Plot what the same minutes reach over the factor: what is drawn right, how well, and the speed."""
    panels = {
        "retrieval_at_1": "captions drawn right (higher is better)",
        "drawing_psnr": "PSNR of drawn pictures, dB",
        "autoencoder_psnr": "PSNR of reconstructions, dB",
        "examples_per_second": "examples per second",
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(13, 3.2), layout="constrained")
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        points = [(int(factor), value) for factor, row in factors.items() if (value := row[name]) is not None]
        axis.plot([factor for factor, _ in points], [value for _, value in points], marker="o")
        axis.set(title=title, xlabel="factor (1: pixels)")
        axis.set_xscale("log", base=2)
        axis.set_xticks([int(factor) for factor in factors], list(factors))
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.3)
        if name == "examples_per_second":
            axis.set_yscale("log")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for pictures, autoencoders, caches and runs, to go on with")
    parser.add_argument("--factors", type=int, nargs="+", choices=FACTORS, default=list(FACTORS), metavar="FACTOR")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, for each factor")
    parser.add_argument("--autoencoder-minutes", type=float, default=5.0, help="of training, for each of factors 2 and 8")
    parser.add_argument("--trial", type=float, default=20.0, help="seconds of training that measure a speed")
    parser.add_argument("--turn", type=float, default=75.0, help="seconds that a run trains before the next one's turn")
    parser.add_argument("--count", type=int, help="only the first COUNT drawings (for a quick look)")
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--plot", type=Path, help="the picture")
    arguments = parser.parse_args()
    if min(arguments.minutes, arguments.autoencoder_minutes, arguments.trial, arguments.turn) <= 0:
        parser.error("minutes and seconds must be above 0")

    pictures = arguments.work / "pictures"
    if not (pictures / "metadata.jsonl").is_file():
        words = [str(pictures), *([] if arguments.count is None else ["--count", str(arguments.count)])]
        subprocess.run([sys.executable, str(Path(__file__).parent / "prepare_openmoji.py"), *words], check=True)
    runs: dict[int, Training] = {}
    for factor in sorted(set(arguments.factors)):
        minutes = arguments.autoencoder_minutes
        settings = train_autoencoder(arguments.work, pictures, factor, minutes=minutes, trial=arguments.trial)
        runs[factor] = prepare_run(arguments.work, pictures, factor, settings, minutes=arguments.minutes)
    steps = {factor: training.plan(arguments.trial) for factor, training in runs.items()}
    while unfinished := [factor for factor in runs if runs[factor].step < steps[factor]]:
        for factor in unfinished:
            runs[factor].go_on(steps[factor], arguments.turn)
    found = {str(factor): measure(factor, training, pictures) for factor, training in runs.items()}
    show(found)
    ratio = math.prod((3, 512, 512)) / math.prod((4, 64, 64))
    example = {"numbers_of_512x512": 3 * 512**2, "numbers_of_its_latents_4x64x64": 4 * 64**2, "times_fewer": ratio}
    times = {"minutes": arguments.minutes, "autoencoder_minutes": arguments.autoencoder_minutes}
    write_results(arguments.out, {**times, "factors": found, "stable_diffusion": example})
    if arguments.plot is not None:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
