"""Let a search of Optuna go on where it ended: its study is a file in the sweep's folder.

Hydra's sweeper runs `n_trials` further trials of a study that it finds, and leaves those that an interruption cut off. Here
`n_trials` counts all trials of a study, and trials without a value are run again with the values that they had: so their
run directories go on.
"""

from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.trial import TrialState

from ldm_train.cli.plugin_words import PluginWords
from ldm_train.cli.sweep_objective import Objective
from ldm_train.settings.quoting import quote
from ldm_train.settings.shipped import ConfigError, key_of

OBJECTIVE = "objective"  # a user attribute of the study
GRID = "hydra/sweeper/sampler=grid"


def study_words(base: Path, plugins: PluginWords, objective: Objective) -> list[str]:
    """Return the settings of the sweeper that no word gives: its study, its direction, and that a failed job ends nothing.

    A grid needs no study: a job that ended before gives its value at once.
    """
    defaults = {
        "hydra.sweeper.direction": "minimize" if objective.lowest else "maximize",
        "hydra.sweeper.max_failure_rate": "1.0",
    }
    if GRID not in plugins.words:
        defaults["hydra.sweeper.storage"] = quote(f"sqlite:///{base.absolute() / 'optuna.db'}")
        defaults["hydra.sweeper.study_name"] = "ldm-train"
    given = {key_of(word) for word in plugins.words}
    return [f"{key}={value}" for key, value in defaults.items() if key not in given]


def continue_study(sweeper: Mapping[str, object], objective: Objective) -> list[str] | None:
    """Queue the trials of a study that have no value; return settings of the sweeper for the rest, None if there is none.

    Raises:
        ConfigError: the study is of another objective.
    """
    total = sweeper["n_trials"]
    assert isinstance(total, int)
    if sweeper["storage"] is None or sweeper["study_name"] is None:
        return []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=str(sweeper["storage"]),
        study_name=str(sweeper["study_name"]),
        direction="minimize" if objective.lowest else "maximize",
        load_if_exists=True,
    )
    if (before := study.user_attrs.get(OBJECTIVE, objective.name)) != objective.name:
        raise ConfigError(
            f"the study {study.study_name} in {sweeper['storage']} searches for objective={before}, not {objective.name}: "
            "choose another folder"
        )
    study.set_user_attr(OBJECTIVE, objective.name)
    trials = study.trials
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    for trial in trials:
        if trial.state == TrialState.RUNNING:  # the sweep that ran it was interrupted: one sweep at a time holds the folder
            study.tell(trial.number, state=TrialState.FAIL)
    known = [trial.params for trial in ended]
    known += [trial.system_attrs["fixed_params"] for trial in trials if trial.state == TrialState.WAITING]
    for trial in trials:
        if trial.params and trial.params not in known:
            study.enqueue_trial(trial.params)
            known.append(trial.params)
    if len(ended) >= total:
        return None
    sampler = sweeper.get("sampler")
    seed = sampler.get("seed") if isinstance(sampler, Mapping) else None
    # With the same seed, the sampler would draw its first values again.
    renewed = [f"hydra.sweeper.sampler.seed={seed + len(trials)}"] if isinstance(seed, int) and trials else []
    return [
        f"hydra.sweeper.n_trials={total - len(ended)}",
        *renewed,
    ]  # with the same seed, it would draw the first values again
