"""Compare a run's stored settings with the settings of now: what may differ when a run is continued, and what may not."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path

from ldm_train.run_dir.reading import Plain, flatten_settings
from ldm_train.settings.constructors import find_constructor, may_build
from ldm_train.settings.schema.commands import may_change
from ldm_train.settings.schema.options import READ_BY_RUN, select
from ldm_train.settings.schema.training import AutoencoderTrainingSettings, FittingSettings
from ldm_train.settings.shipped import groups, shipped
from ldm_train.util.messages import note


def refuse_other_run(
    before: FittingSettings, config: FittingSettings, content: str, run_dir: Path, record: Plain, *, base: str | None = None
) -> None:
    """Raise if a run cannot be continued because its settings or data differ; settings that may change are ignored.

    Raises:
        ValueError: listing what differs.
    """
    then, now = (dict(flatten_settings(plain)) for plain in (before.as_plain(), config.as_plain()))
    verb = verb_of(config)
    names = sorted(
        name
        for name in then | now
        if then.get(name) != now.get(name) and not may_change(verb, name) and not _is_new(name, then, now)
    )
    weights = "network.weights" if verb == "train" else "autoencoder.weights"
    if base is not None:
        names = [name for name in names if name != weights]  # they may have moved
    differences = [f"{name}: then {json.dumps(then.get(name))}, now {json.dumps(now.get(name))}" for name in names]
    if record["content"] != content:
        differences.insert(0, f"the data: then {record['content']}, now {content}")
    if base is not None and record.get("base") != base:
        differences.insert(0, f"the weights in {weights}={select(config, weights)}: then {record.get('base')}, now {base}")
    if differences:
        listed = "\n  ".join(differences)
        raise ValueError(
            f"{run_dir} cannot be continued, for its run differs:\n  {listed}\n"
            "give these as they were then, choose another run_dir, or set resume=restart to remove this run's history and "
            "checkpoints and start anew"
        )
    if before.max_steps != config.max_steps:
        note(f"max_steps was {before.max_steps} and is {config.max_steps}: the LR schedule follows it from here on")


def identify_run(
    config: FittingSettings, *, content: str, first_weights: str | None, trained_for: Mapping[str, object] | None
) -> str:
    """Return one name for all that decides a run's weights, which the same run has anywhere and at any time.

    Args:
        first_weights: one name for the weights that the run starts from, instead of their path; None if its seed draws them.
    """
    kept = {name: value for name, value in flatten_settings(config.as_plain()) if not may_change(verb_of(config), name)}
    if first_weights is not None:
        kept.pop("network.weights", None)
    decisive = {"settings": kept, "content": content, "first_weights": first_weights, "trained_for": trained_for}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _is_new(name: str, then: Plain, now: Plain) -> bool:
    """Return whether only one config has this setting of a constructor, with the constructor's default as its value."""
    group, _, key = name.partition(".")
    target = now.get(f"{group}._target_")
    if (name in then) == (name in now) or target != then.get(f"{group}._target_") or not may_build(target, group):
        return False
    value = then.get(name, now.get(name))
    if key in READ_BY_RUN.get(group, set()):
        return all(shipped(f"{group}/{option}").get(key, value) == value for option in groups()[group])
    argument = inspect.signature(find_constructor(str(target), group)).parameters.get(key)
    return argument is not None and json.dumps(argument.default, default=str) == json.dumps(value)


def verb_of(config: FittingSettings) -> str:
    """Return the command that trains with these settings."""
    return "train_autoencoder" if isinstance(config, AutoencoderTrainingSettings) else "train"
