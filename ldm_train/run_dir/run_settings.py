"""Compare the settings of runs with the defaults and with each other."""

import json
from collections.abc import Sequence
from os.path import commonpath
from pathlib import Path

from omegaconf import OmegaConf

from ldm_train.run_dir.reading import Plain, RunRead, flatten_settings
from ldm_train.settings.composition import defaults

NOT_OF_THE_RUN = {"run_dir", "resume", "debug", "max_time"}  # differ without a difference in what is trained
ABSENT = "(none)"
OF_THE_LOSS = ("prediction", "weighting")  # what the loss is the error of, and how it is weighted


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each run directory: its path without what all paths have in common."""
    if len(paths) == 1:
        return [paths[0].resolve().name]
    whole = [path.resolve() for path in paths]
    common = commonpath(whole)
    short = [path.relative_to(common).as_posix() for path in whole]
    return [path.name if name == "." else name for path, name in zip(whole, short, strict=True)]


def list_differences(runs: Sequence[RunRead]) -> dict[str, list[str]]:
    """Return each setting that differs between the runs that have it, with its value in each."""
    every = sorted({name for run in runs for name in run.settings} - NOT_OF_THE_RUN)
    found = {name: [_reported(run.settings, name) for run in runs] for name in every}
    return {_short(name): values for name, values in found.items() if len(set(values) - _lacking(name)) > 1}


def list_loss_differences(runs: Sequence[RunRead]) -> list[str]:
    """Return the parts of the loss that differ between runs, so that their losses are not of one kind, with each value."""
    found = {name: {_reported(run.settings, f"{name}._target_") for run in runs} - {ABSENT} for name in OF_THE_LOSS}
    return [f"{name}: {', '.join(sorted(values))}" for name, values in found.items() if len(values) > 1]


def list_changed(run: RunRead) -> list[tuple[str, str]]:
    """Return the settings of a run that are not its command's defaults."""
    verb = "train_autoencoder" if run.of_autoencoder else "train"
    shipped = dict(flatten_settings(OmegaConf.to_container(defaults(verb))))
    kept = [name for name in run.settings if name not in NOT_OF_THE_RUN and run.settings[name] != shipped.get(name)]
    return [(_short(name), _reported(run.settings, name)) for name in kept]


def every_setting(run: RunRead) -> list[tuple[str, str]]:
    return [(_short(name), format_setting(found)) for name, found in run.settings.items()]


def format_setting(found: object) -> str:
    """Return a value about as it stands on a command line."""
    return found if isinstance(found, str) else json.dumps(found)


def _reported(found: Plain, name: str) -> str:
    text = format_setting(found[name]) if name in found else ABSENT
    return text.rpartition(".")[2] if name.endswith("._target_") else text


def _lacking(name: str) -> set[str]:
    """Return the values that do not count as a difference: a missing setting, if the run chose an option without it."""
    return {ABSENT} if "." in name and not name.endswith("._target_") else set()


def _short(name: str) -> str:
    """Return the short name of a setting: a constructor is named by its group."""
    return name.removesuffix("._target_")
