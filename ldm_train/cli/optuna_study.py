"""Let a search of Optuna go on where it ended: its study is a file in the sweep's folder.

Hydra's sweeper runs `n_trials` further trials of a study that it finds, and leaves those that an interruption cut off. Here
`n_trials` counts all trials of a study, and trials without a value are run again with the values that they had: so their
run directories go on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState

from ldm_train.cli.plugin_words import PluginWords
from ldm_train.cli.sweep_objective import Objective
from ldm_train.settings.quoting import quote
from ldm_train.settings.schema.typed_values import unquote
from ldm_train.settings.shipped import ConfigError, key_of

OBJECTIVE = "objective"  # a user attribute of the study
# Samplers without a study here: a grid needs none, and cmaes unpickles what it finds in one, which may be a stranger's.
WITHOUT_STUDY = {f"hydra/sweeper/sampler={name}" for name in ("grid", "cmaes")}
STUDY = "ldm-train"  # in the sweep's folder


def study_words(base: Path, plugins: PluginWords, objective: Objective) -> list[str]:
    """Return the settings of the sweeper that no word gives: its study, its direction, and that a failed job ends nothing.

    Raises:
        ConfigError: a storage of the user's without the name of the study in it.
    """
    defaults = {
        "hydra.sweeper.direction": "minimize" if objective.lowest else "maximize",
        "hydra.sweeper.max_failure_rate": "1.0",
    }
    given = {key_of(word) for word in plugins.words}
    if "hydra.sweeper.storage" in given and "hydra.sweeper.study_name" not in given:
        raise ConfigError("hydra.sweeper.storage may hold the studies of several sweeps: add hydra.sweeper.study_name=NAME")
    if not any(word.lstrip("+") in WITHOUT_STUDY for word in plugins.words):
        defaults["hydra.sweeper.storage"] = quote(locate_study(base))
        defaults["hydra.sweeper.study_name"] = STUDY
    return [f"{key}={value}" for key, value in defaults.items() if key not in given]


def locate_study(base: Path) -> str:
    """Return the address of the database in a sweep's folder."""
    return f"sqlite:///{base.absolute() / 'optuna.db'}"


def continue_study(
    base: Path, sweeper: Mapping[str, object], objective: Objective, lists: Mapping[str, Sequence[str] | None]
) -> list[str] | None:
    """Queue the trials of a study that have no value; return settings of the sweeper for the rest, None if there is none.

    Args:
        lists: the values of each swept setting; None for a range that the search draws from.

    Raises:
        ConfigError: the study is of another objective, or searches other lists of values.
    """
    total = sweeper["n_trials"]
    assert isinstance(total, int)
    if sweeper["storage"] is None or sweeper["study_name"] is None:
        return []
    storage = str(sweeper["storage"])
    study, trials = open_study(storage, str(sweeper["study_name"]), objective, own=storage == locate_study(base))
    check_lists(trials, lists, base)
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    known = [trial.params for trial in ended]
    known += [trial.system_attrs["fixed_params"] for trial in study.trials if trial.state == TrialState.WAITING]
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
    return [f"hydra.sweeper.n_trials={total - len(ended)}", *renewed]


def check_lists(trials: Sequence[optuna.trial.FrozenTrial], lists: Mapping[str, Sequence[str] | None], base: Path) -> None:
    """Raise if a setting had other values in the study's earlier trials, which Optuna cannot compare with new ones.

    Raises:
        ConfigError: it names the setting, its values before and now, and what to do.
    """
    for trial in trials:
        for name, distribution in trial.distributions.items():
            choices = getattr(distribution, "choices", None)
            before, now = None if choices is None else [unquote(str(one)) for one in choices], lists.get(name)
            if name in lists and before != (None if now is None else [unquote(one) for one in now]):
                texts = ["a range" if one is None else ",".join(one) for one in (before, now)]
                raise ConfigError(
                    f"the search in {base} has {name}={texts[0]}, and now it is {texts[1]}: one search keeps its lists of "
                    "values. Type the values as before, or search in another folder"
                )


def open_study(
    storage: str, name: str, objective: Objective, *, own: bool
) -> tuple[optuna.Study, list[optuna.trial.FrozenTrial]]:
    """Return a study, and the trials of earlier sweeps, of which none runs; one without values takes another objective.

    Args:
        own: whether it is in the sweep's folder, which one sweep at a time holds; other sweeps may use another one.

    Raises:
        ConfigError: the study has values of another objective.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = "minimize" if objective.lowest else "maximize"
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name)
    trials, wanted = study.trials, f"{objective.name}, {direction}"
    if (before := study.user_attrs.get(OBJECTIVE, wanted)) != wanted:
        if not own or any(trial.state == TrialState.COMPLETE for trial in trials):
            raise ConfigError(
                f"the study {name} in {storage} searches for objective={before}, not {wanted}: choose another folder"
            )
        optuna.delete_study(storage=storage, study_name=name)
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    study.set_user_attr(OBJECTIVE, wanted)
    for trial in study.trials if own else []:
        if trial.state == TrialState.RUNNING:  # the sweep that ran it was interrupted
            study.tell(trial.number, state=TrialState.FAIL)
    return study, trials
