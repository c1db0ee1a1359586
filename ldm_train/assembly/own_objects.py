"""Build the callbacks and metrics of own code that a run's settings list, without touching the run's draws."""

import torch
from pytorch_lightning import Callback

from ldm_train.metrics.evaluation import PictureMetric
from ldm_train.settings.composition import build
from ldm_train.settings.schema.options import Part, read_part
from ldm_train.settings.schema.training import TrainSettings


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
    """Return the callbacks of own code."""
    return [made for group, made in _build_all(config, "callbacks") if isinstance(made, Callback)]


def build_own_metrics(config: TrainSettings) -> list[PictureMetric]:
    """Return the metrics of own code."""
    return [made for _, made in _build_all(config, "metrics")]  # type: ignore[misc]


def _build_all(config: TrainSettings, group: str) -> list[tuple[str, object]]:
    with torch.random.fork_rng(devices=[]):
        return [(name, build(part, name)) for name, part in list_own_parts(config) if name == group]
