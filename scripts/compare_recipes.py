"""Train recipes on the same cache for the same minutes, by turns and with several seeds, and write a table.

    ldm-train encode source.path=DIR crop=fit cache=caches/own
    python scripts/compare_recipes.py caches/own --minutes 10 --seeds 0 1 --out docs/results/recipes.json

The first recipe has the settings of diffusers' train_text_to_image.py as it comes, on diffusers' U-Net; "own" is
`experiment=own_64`; each of the others changes one thing of it. Each run's number of steps is what its speed, measured
first, makes of the minutes; then all runs train by turns of `--turn` seconds, so that a busy machine costs all alike.

Validation losses of different predictions and schedules cannot be compared, so `noise_error` is the squared error of the
implied noise at the same log-SNRs for all, normal around 0 with deviation 2.4. The others are those of `ldm-train evaluate`.
A value's interval is that of its mean over the seeds (Student's t, 95 %), where there are several.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from measuring import write_results
from rich.console import Console
from rich.table import Table

from ldm_train.assembly.stored_run import open_run
from ldm_train.assembly.training_module import training_module
from ldm_train.commands.evaluate.real_pictures import open_held_out_data
from ldm_train.diffusion.timesteps import LogNormal
from ldm_train.run_dir.reading import read_run
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.training.run_files import INTERRUPTED
from ldm_train.training.validation.compared import choose_trained
from ldm_train.training.validation.fixed_losses import measure_losses

OWN = ["experiment=own_64"]
RECIPES: dict[str, list[str]] = {
    "diffusers": [
        *["network=diffusers_unet", "schedule=scaled_linear", "prediction=noise", "timesteps=uniform", "batch_size=16"],
        *["optimizer.lr=1e-4", "optimizer.weight_decay=1e-2", "lr_schedule=constant", "lr_schedule.warmup_steps=500"],
        *["caption_dropout=0", "held_out=0.1"],
    ],
    "own": OWN,
    "noise": [*OWN, "prediction=noise", "schedule=scaled_linear"],
    "noise, cosine": [*OWN, "prediction=noise"],
    "flow": [*OWN, "prediction=flow", "schedule=rectified_flow"],
    "min-SNR": [*OWN, "weighting=min_snr"],
    "learned weights": [*OWN, "weighting=learned"],
    "patch 1": [*OWN, "network.patch_size=1"],
    "head size 16": [*OWN, "network.head_size=16"],
    "head size 64": [*OWN, "network.head_size=64"],
    "batch 48": [*OWN, "batch_size=48"],
    "rate 2e-3": [*OWN, "optimizer.lr=2e-3"],
    "rate 5e-4": [*OWN, "optimizer.lr=5e-4"],
    "average half as long": [*OWN],
    "average twice as long": [*OWN],
}
AVERAGED = {
    "diffusers": None,
    "average half as long": 4.8,
    "average twice as long": 1.2,
}  # steps of the run by those averaged
NOISE_LEVELS = LogNormal(mean=0.0, std=1.2)  # of sigma / alpha: log-SNR is minus twice its logarithm
WARM_UP = 40.0  # seconds of the run that measures a recipe's speed
LOWER_IS_BETTER = ("noise_error", "taught_noise_error", "kid_efficientnet_lite0")
HIGHER_IS_BETTER = ("taught_retrieval_at_1", "retrieval_at_1")
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # of Student's t by the number of values


@dataclass(frozen=True)
class Run:
    """A run of one recipe with one seed.

    Args:
        most: the number of steps; None for as many as there is time for.
    """

    recipe: str
    seed: int
    folder: Path
    cache: Path
    most: int | None = None

    def train(self, seconds: float) -> None:
        """Go on for so many seconds, or to the end."""
        steps, averaged = self.most or 1_000_000, AVERAGED.get(self.recipe, 2.4)
        words = [*RECIPES[self.recipe], f"ema.decay={0 if averaged is None else max(0.0, 1 - averaged / steps):.6f}"]
        words += [f"cache={self.cache}", f"run_dir={self.folder}", f"seed={self.seed}", f"max_steps={steps}"]
        words += [f"{name}.every=1000000" for name in ("validation", "pictures", "checkpoint")]
        words += ["metrics.every=null", "validation.repeats=1", "pictures.count=1", "pictures.steps=1"]  # at the last step
        words += [f"max_time={timedelta(seconds=round(seconds))}"]
        run_command("train", words, accepted=(0, INTERRUPTED))

    @property
    def step(self) -> int:
        return read_run(self.folder).step if self.folder.exists() else 0

    @property
    def examples_per_second(self) -> float:
        speeds = read_run(self.folder).series["time/samples_per_second"].finite.values
        return statistics.median(speeds[1:] if len(speeds) > 1 else speeds)

    @property
    def batch_size(self) -> int:
        found = read_run(self.folder).settings["batch_size"]
        assert isinstance(found, int)
        return found


def run_command(verb: str, words: Sequence[str], *, accepted: Sequence[int] = (0,)) -> None:
    """Run a command; leave with what it printed if it fails."""
    command = [sys.executable, "-m", "ldm_train", verb, *words]
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode not in accepted:
        sys.exit(f"{' '.join(command)}\n{result.stderr[-2000:]}")


def plan_runs(arguments: argparse.Namespace) -> list[Run]:
    """Measure each recipe's speed, and return the runs with their numbers of steps."""
    runs = []
    for recipe in arguments.recipes:
        folder = arguments.runs / recipe.replace(" ", "_").replace(",", "")
        trial = Run(recipe, 0, folder / "speed", arguments.cache)
        if not trial.step:
            trial.train(WARM_UP)
        most = max(1, round(60 * arguments.minutes * trial.examples_per_second / trial.batch_size))
        print(f"{recipe}: {trial.examples_per_second:.0f} examples/s, {most:,} steps", flush=True)
        runs += [Run(recipe, seed, folder / f"seed{seed}", arguments.cache, most) for seed in arguments.seeds]
    return runs


def measure(run: Run) -> dict[str, float]:
    """Return a finished run's figures."""
    out = run.folder / "metrics.json"
    if not out.is_file():
        run_command("evaluate", [f"run_dir={run.folder}", f"out={out}"])
    found = json.loads(out.read_text(encoding="utf-8"))
    figures = {name: found[name] for name in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER) if name in found}
    return {**measure_noise_errors(run), **figures, "examples": run.step * run.batch_size}


def measure_noise_errors(run: Run) -> dict[str, float]:
    """Return the squared error of the implied noise on held-out and on trained examples, at log-SNRs that all runs share."""
    settings = compose_as(EvaluateSettings, [f"run_dir={run.folder}", "out=unused.json"])
    trained = open_run(settings)
    module = training_module(trained.config, trained.parts)
    module.timesteps = NOISE_LEVELS
    data = open_held_out_data(settings, trained.config, trained.parts)
    assert data is not None
    sets = {"noise_error": data.held_out, "taught_noise_error": choose_trained(data, len(data.held_out))}
    return {
        name: measure_losses(module, data, examples, batch_size=32, repeats=16).total["noise_mse"].mean
        for name, examples in sets.items()
    }


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Return the mean, and the half width of its interval where there are several values."""
    if len(values) == 1:
        return {"mean": values[0]}
    return {
        "mean": statistics.mean(values),
        "interval": T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values)),
    }


def show(recipes: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Print the table."""
    names = list(dict.fromkeys(name for row in recipes.values() for name in row))
    table = Table("recipe", *names)
    for recipe, row in recipes.items():
        cells = [row.get(name, {}) for name in names]
        table.add_row(recipe, *(" ± ".join(f"{value:.4g}" for value in cell.values()) for cell in cells))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="at most five")
    parser.add_argument("--turn", type=float, default=120.0, help="seconds that a run trains before the next one's turn")
    parser.add_argument("--runs", type=Path, default=Path("outputs/recipes"), help="folder of the runs, to go on with")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if len(arguments.seeds) > max(T_95):
        parser.error(f"--seeds takes at most {max(T_95)}")
    runs = plan_runs(arguments)
    while unfinished := [run for run in runs if run.step < (run.most or 0)]:
        for run in unfinished:
            run.train(arguments.turn)
    recipes: dict[str, dict[str, dict[str, float]]] = {}
    for recipe in arguments.recipes:
        found = [measure(run) for run in runs if run.recipe == recipe]
        recipes[recipe] = {name: summarise([figures[name] for figures in found]) for name in found[0]}
    show(recipes)
    write_results(arguments.out, {"minutes": arguments.minutes, "seeds": arguments.seeds, "recipes": recipes})


if __name__ == "__main__":
    main()
