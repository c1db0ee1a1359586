"""Make a trained model worse on purpose, and see whether each measure says so; and how far two samplings of it differ.

    python scripts/rank_noised.py outputs/quickstart --out docs/results/ranking.json
    python scripts/rank_noised.py RUN_DIR --grades 0.2 0.4 evaluation.source=DIR resamples=500

Keyed noise is added to every tensor of the averaged weights, a grade times the tensor's own deviation, and the result is
measured by `ldm-train evaluate`, as anybody would. A measure ranks rightly where each grade is worse than the one before,
and the first no better than the unharmed model: what is at its best, as a share of 1, cannot tell these two apart.
Two samplings, of two seeds, agree where each one's value lies within the other's interval. Exit code 1: a measure does not
rank rightly, or the samplings do not agree.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from measuring import check, failures, write_results
from torch import Tensor

from ldm_train import draws
from ldm_train.assembly.stored_weights import read_weights
from ldm_train.weights.tensor_files import write_tensor_file

GRADES = (0.3, 0.5, 0.7, 0.9)
HIGHER_IS_BETTER = {"validation_loss": False, "kid": False, "retrieval_at_1": True}
Numbers = Mapping[str, float]
Ends = Mapping[str, Sequence[float]]


def noised(weights: Mapping[str, Tensor], grade: float, *, seed: int) -> dict[str, Tensor]:
    """Each tensor with noise of `grade` times its own deviation; of all grades the noise is the same but for its size."""
    position = torch.zeros(1, dtype=torch.int64)

    def noise(name: str, tensor: Tensor) -> Tensor:
        return tensor.float().std(correction=0) * draws.normal(seed, f"noise {name}", position, tensor.shape)[0]

    return {name: tensor + grade * noise(name, tensor) for name, tensor in weights.items()}


def measure_of(values: Mapping[str, object], name: str) -> str:
    """The full name of a measure, which for distances ends in the extractor's."""
    return name if name in values else next(key for key in values if key.startswith(f"{name}_"))


def ranked(values: Sequence[float], *, higher_is_better: bool) -> bool:
    """Whether each grade's value is worse than the one before, and none better than the unharmed model's, which is first."""
    unharmed, *grades = values if higher_is_better else [-value for value in values]
    return unharmed >= grades[0] and all(b < a for a, b in pairwise(grades))


def apart(intervals: Sequence[Sequence[float]]) -> bool:
    """Whether no interval has anything in common with the one before."""
    return all(a[1] < b[0] or b[1] < a[0] for a, b in pairwise(intervals))


def agree(first: float, second: float, ends: Sequence[float], other_ends: Sequence[float]) -> bool:
    """Whether each value lies within the other's interval."""
    return ends[0] <= second <= ends[1] and other_ends[0] <= first <= other_ends[1]


def evaluate(run_dir: Path, out: Path, words: Sequence[str]) -> dict:
    """What `ldm-train evaluate` says."""
    command = [sys.executable, "-m", "ldm_train", "evaluate", f"run_dir={run_dir}", f"out={out}", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text(encoding="utf-8"))


def rank(measured: Sequence[tuple[float, dict]]) -> dict[str, object]:
    """What each measure says of the grades, from the unharmed model on."""
    found: dict[str, object] = {}
    for short, higher in HIGHER_IS_BETTER.items():
        name = measure_of(measured[0][1], short)
        values = [numbers[name] for _, numbers in measured]
        intervals = [numbers["intervals"][name] for _, numbers in measured]
        good = check(f"{name}: {', '.join(f'{v:.4g}' for v in values)}", ranked(values, higher_is_better=higher))
        found[name] = {
            "values": values,
            "intervals": intervals,
            "ranked": good,
            "neighbours_intervals_apart": apart(intervals),
        }
    return found


def compare_seeds(first: dict, second: dict) -> dict[str, object]:
    """Whether two samplings agree, of each measure of drawn pictures."""
    found: dict[str, object] = {}
    for short in ("kid", "retrieval_at_1"):
        name = measure_of(first, short)
        both = [first["intervals"][name], second["intervals"][name]]
        good = check(f"{name} of two seeds: {first[name]:.4g}, {second[name]:.4g}", agree(first[name], second[name], *both))
        found[name] = {"values": [first[name], second[name]], "intervals": both, "agree": good}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("overrides", nargs="*", help="of `ldm-train evaluate`")
    parser.add_argument("--grades", type=float, nargs="+", default=GRADES)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 1), help="of two samplings of the unharmed model")
    parser.add_argument("--noise_seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_intermixed_args()
    weights, step, _ = read_weights(options.run_dir, "ema")
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for grade in (0.0, *options.grades):
            file = Path(folder) / f"{grade}.safetensors"
            write_tensor_file(
                file, noised(weights, grade, seed=options.noise_seed), {"step": step, "weights": f"noise {grade}"}
            )
            words = [f"weights={file}", f"seed={options.seeds[0]}", *options.overrides]
            measured.append((grade, evaluate(options.run_dir, Path(folder) / f"{grade}.json", words)))
        words = [f"seed={options.seeds[1]}", *options.overrides]
        other = evaluate(options.run_dir, Path(folder) / "other.json", words)
    results = {
        "step": step,
        "grades": [grade for grade, _ in measured],
        "noise_seed": options.noise_seed,
        "pictures": other["pictures"],
        "real_pictures": other["real_pictures"],
        "measures": rank(measured),
        "seeds": list(options.seeds),
        "samplings": compare_seeds(measured[0][1], other),
    }
    write_results(options.out, results)
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
