"""Build the callbacks and metrics of own code that a run's settings list, without touching the run's draws."""

import torch
from pytorch_lightning import Callback

from ldm_train.assembly.own_probes import FOUR, make_toy_comparison
from ldm_train.metrics.evaluation import PictureMetric, Retrieval
from ldm_train.settings.composition import build
from ldm_train.settings.schema.options import Part, read_part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.checkpoints.checkpoint_io import check_state


def list_own_parts(config: TrainSettings) -> list[tuple[str, Part]]:
    """Return the callbacks and metrics of own code that settings list, each with its group.

    Raises:
        ValueError: an item names no class.
    """
    found = []
    for setting, group, items in (
        ("callbacks", "callbacks", config.callbacks),
        ("metrics.own", "metrics", config.metrics.own),
    ):
        for item in items:
            part = read_part(group, item)
            if not isinstance(part, Part):
                raise ValueError(f"{setting}={item} names no class; write [mypackage.Class], or give its _target_")
            found.append((group, part))
    return found


def build_callbacks(config: TrainSettings) -> list[Callback]:
    """Return the callbacks of own code.

    Raises:
        ValueError: one has a state that a checkpoint cannot keep, or two keep theirs under one name.
    """
    callbacks = [made for group, made in _build_all(config, "callbacks") if isinstance(made, Callback)]
    names: set[str] = set()
    for callback in callbacks:
        if type(callback).state_dict is Callback.state_dict:
            continue
        if callback.state_key in names:
            raise ValueError(
                f"callbacks has several {type(callback).__name__} with state_key={callback.state_key!r}, under which a "
                "checkpoint keeps the state of one; give the class a property state_key with different texts"
            )
        names.add(callback.state_key)
        check_state(type(callback).__name__, read_early_state(callback))
    return callbacks


def read_early_state(callback: Callback) -> object:
    """Return a callback's state before the training; None if it has none yet."""
    try:
        return callback.state_dict()
    except Exception:  # of own code
        return None


def build_own_metrics(config: TrainSettings) -> list[PictureMetric]:
    """Return the metrics of own code.

    Raises:
        ValueError: one has a name that another metric has.
    """
    metrics: list[PictureMetric] = [made for _, made in _build_all(config, "metrics")]  # type: ignore[misc]
    names: dict[str, str] = {}
    for metric in [Retrieval(), *metrics]:
        for name in metric(make_toy_comparison(FOUR)):
            if name in names:
                raise ValueError(
                    f"metrics.own: {type(metric).__name__} gives {name}, which {names[name]} gives too; rename one of them"
                )
            names[name] = type(metric).__name__
    return metrics


def _build_all(config: TrainSettings, group: str) -> list[tuple[str, object]]:
    with torch.random.fork_rng(devices=[]):
        return [(name, build(part, name)) for name, part in list_own_parts(config) if name == group]
