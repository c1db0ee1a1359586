"""What a search improves: a logged metric of the jobs, and which value of it a job counts with."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ldm_train.run_dir.metric_names import lower_is_better
from ldm_train.run_dir.reading import read_run
from ldm_train.settings.shipped import ConfigError, key_of
from ldm_train.util.safe_json import numbers_of, read_json
from ldm_train.util.text import list_names, nearest

OBJECTIVE = "objective"
# The names that a command always logs, the default first; further ones depend on the settings.
LOGGED = {
    "train": (
        "validation_loss",
        "validation_noise_mse",
        "validation_loss_raw",
        "validation_noise_mse_raw",
        "loss",
        "noise_mse",
    ),
    "train_autoencoder": ("held_out_psnr", "loss"),
    "evaluate": (),
}
NEAR = 0.85  # of difflib: nearer than any two of these names


class MissingMetricError(ValueError):
    """A job ended without a value of the objective."""


@dataclass(frozen=True)
class Objective:
    """A metric that a search improves.

    Args:
        name: as it is logged; `metrics/` may be left out before it.
        lowest: whether its lowest value is the best.
    """

    name: str
    lowest: bool

    def read_best(self, directory: Path) -> float:
        """Return the best finite value that a job logged.

        Raises:
            MissingMetricError: there is none; it lists what was logged.
            OSError, ValueError: what the job wrote cannot be read.
        """
        values = read_values(directory)
        found = next((values[name] for name in (self.name, f"metrics/{self.name}") if name in values), None)
        if found is None:
            names = sorted(name.removeprefix("metrics/") for name in values if not name.startswith("validation_bins"))
            raise MissingMetricError(
                f"objective={self.name} is not in what {directory} logged: {list_names(names, 30) or 'nothing'}. The same "
                f"command with another objective goes on with the jobs that ended{nearest(self.name, names)}"
            )
        if not found:
            raise ValueError(f"{directory} has no finite value of objective={self.name}")
        return min(found) if self.lowest else max(found)

    def rank(self, value: float | None) -> tuple[bool, float]:
        """Return what sorts jobs by their values, the best first and those without a value last."""
        return (value is None, 0.0 if value is None else value if self.lowest else -value)


def read_values(directory: Path) -> dict[str, list[float]]:
    """Return the finite values of each metric of a run directory, or of the file of an evaluation."""
    if directory.suffix == ".json":
        return {name: [float(value)] for name, value in numbers_of(read_json(directory)).items()}
    return {name: series.finite.values.tolist() for name, series in read_run(directory).series.items()}


def choose_objective(
    verb: str, words: Sequence[str], *, searches: bool, minimizes: bool | None = None
) -> tuple[list[str], Objective | None]:
    """Return the words without `objective=…`, and what it names; None if nothing is searched.

    Args:
        minimizes: whether a setting of the sweeper asks for the lowest value; None for what is best of the metric.

    Raises:
        ConfigError: there is no objective, or one that the command does not log.
    """
    given = [word.partition("=")[2].strip("'\" ") for word in words if key_of(word) == OBJECTIVE]
    rest = [word for word in words if key_of(word) != OBJECTIVE]
    if not searches:
        if given:
            raise ConfigError(f"objective={given[-1]} is for a search: add hydra/sweeper=optuna, or leave it out")
        return rest, None
    if verb not in LOGGED:
        raise ConfigError(f"hydra/sweeper searches for the best metric, and {verb} measures none; {' and '.join(LOGGED)} do")
    logged = LOGGED[verb]
    name = given[-1] if given else next(iter(logged), "")
    if not name:
        raise ConfigError(f"a search of {verb} needs objective=NAME, a number in its file, such as kid_efficientnet_lite0")
    if name not in logged and (near := difflib.get_close_matches(name, logged, n=1, cutoff=NEAR)):
        raise ConfigError(f"objective={name} is no metric of {verb}; did you mean {near[0]!r}?")
    return rest, Objective(name, lower_is_better(name) if minimizes is None else minimizes)
