"""Measure how many examples of each picture a small network needs until it draws what it was taught.

    python scripts/prepare_trials.py data/trials
    python scripts/measure_expectations.py outputs/expectations docs/results/expectations.json data/trials/planets \\
        data/trials/first data/trials/renders data/trials/cartoons --runs outputs/quickstart

Each folder is encoded and trained with `experiment=own_64`, for 500 examples of each picture and at least 1,500 steps; a run
that is there already goes on. `--runs` adds runs that something else trained. Of each run, the file holds the number of
pictures and of different words in their captions, and the examples until `taught_retrieval_at_1` first reached 0.9 (between
two measurements by interpolation), and, of a run that has ended, until `taught_validation_loss` had fallen by 95 % of what
it fell in all.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from measuring import write_results

from ldm_train.data.cache.reader import LatentCache
from ldm_train.run_dir.reading import RunRead, read_run

BATCH, EXAMPLES, FEWEST_STEPS, MEASUREMENTS = 24, 500, 1500, 10
RECOGNISED, FALLEN = 0.9, 0.95
Curve = tuple[Sequence[float], Sequence[float]]


def run_command(verb: str, *words: str) -> None:
    """Run a command, and leave if it fails."""
    subprocess.run([sys.executable, "-m", "ldm_train", verb, *words], check=True)


def train(folder: Path, out: Path) -> Path:
    """Encode a folder and train on it; return the run directory."""
    cache, run = out / "cache", out / "run"
    run_command("encode", f"source.path={folder}", "image_size=64", "crop=fit", f"cache={cache}")
    steps = max(FEWEST_STEPS, EXAMPLES * len(LatentCache(cache)) // BATCH)
    every = [f"{name}.every={steps // MEASUREMENTS}" for name in ("validation", "metrics")]
    average = [f"ema.decay={1 - 2.4 / steps:.6f}", "metrics.count=32", "pictures.every=1000000"]
    words = [f"cache={cache}", f"run_dir={run}", "experiment=own_64", f"max_steps={steps}", *every, *average]
    run_command("train", *words)
    return run


def cross(curve: Curve, level: float, *, rising: bool) -> float | None:
    """Return where a curve first reaches a level, by linear interpolation; None if it does not."""
    places, values = curve
    sign = 1 if rising else -1
    for i, value in enumerate(values):
        if sign * (value - level) >= 0:
            if i == 0:
                return places[0]
            share = (level - values[i - 1]) / (value - values[i - 1])
            return places[i - 1] + share * (places[i] - places[i - 1])
    return None


def read_curve(run: RunRead, name: str) -> Curve:
    """Return a value over the examples that were trained on so far."""
    batch = run.settings["batch_size"]
    assert isinstance(batch, int)
    series = run.series[name].finite
    return [float(step) * batch for step in series.steps], [float(value) for value in series.values]


def summarise(path: Path) -> dict[str, object]:
    """Return what a run's figures say of learning."""
    run = read_run(path)
    caches = run.settings["cache"]
    cache = LatentCache(caches if isinstance(caches, str) else str(caches))
    retrieval = read_curve(run, "metrics/taught_retrieval_at_1")
    losses = read_curve(run, "taught_validation_loss")
    first, last = max(losses[1]), min(losses[1])
    ended = run.step >= run.max_steps
    recognised = cross(retrieval, RECOGNISED, rising=True)
    return {
        "pictures": len(cache),
        "words": len({word for text in cache.caption_texts for word in text.split()}),
        "steps": run.step,
        "examples_until_recognised": recognised,
        "examples_until_the_loss_fell": cross(losses, first - FALLEN * (first - last), rising=False) if ended else None,
        "taught_retrieval_at_1": dict(zip(map(round, retrieval[0]), retrieval[1], strict=True)),
        "taught_validation_loss": dict(zip(map(round, losses[0]), losses[1], strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder for caches and runs")
    parser.add_argument("results", type=Path, help="the JSON file to write")
    parser.add_argument("folders", nargs="*", type=Path, help="folders of captioned pictures to train on")
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="run directories to summarise as they are")
    arguments = parser.parse_args()
    runs = {path.name: path for path in arguments.runs}
    runs |= {folder.name: train(folder, arguments.out / folder.name) for folder in arguments.folders}
    write_results(arguments.results, {name: summarise(path) for name, path in runs.items()})


if __name__ == "__main__":
    main()
