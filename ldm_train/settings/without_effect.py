"""Warn of settings that were changed and have no effect, since whoever set them expects one."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm_train.settings.composition import defaults, plain
from ldm_train.settings.run_options import DRAWING_GROUPS
from ldm_train.settings.schema.options import TARGET, CommandSettings, dict_settings, select
from ldm_train.settings.shipped import ConfigError, read
from ldm_train.util.messages import Caution
from ldm_train.util.processes import count_slurm_tasks
from ldm_train.util.safe_json import read_object
from ldm_train.util.text import format_value

FITTING = ("train", "train_autoencoder", "check")
DRAWING = (*DRAWING_GROUPS, "steps")


@dataclass(frozen=True)
class EffectRule:
    """Settings, or groups of them, that have no effect under a condition.

    Args:
        because: the condition, in words; `{name}` stands for a setting's value, as in `{max_steps}`.
    """

    verbs: tuple[str, ...]
    names: tuple[str, ...]
    holds: Callable[[Any], bool]
    because: str


def every(name: str) -> EffectRule:
    """Something that is done every so many steps is done at the end of a shorter run alone."""
    return EffectRule(
        FITTING, (name,), lambda c: steps(c, name) > c.max_steps, f"max_steps={{max_steps}}, at whose end {DONE[name]}"
    )


DONE = {
    "checkpoint.every": "a checkpoint is written anyway",
    "validation.every": "held-out examples are measured anyway",
    "pictures.every": "pictures are drawn anyway",
    "metrics.every": "pictures are measured anyway",
}

RULES = (
    EffectRule(
        ("train",),
        ("crop", "background", "max_pixels", "max_unusable", "dtype"),
        lambda c: c.cache is not None,
        "a cache is given, whose pictures are encoded already",
    ),
    EffectRule(("train",), ("verify",), lambda c: c.cache is None, "cache=null has no files to verify"),
    EffectRule(
        ("train", "check"),
        ("cache_repeats", "cache_shares"),
        lambda c: c.cache is not None and caches(c) == 1,
        "there is one cache, of which every epoch is all",
    ),
    EffectRule(
        ("train",),
        ("pictures.count", "pictures.every", "pictures.guidance", "pictures.steps", "pictures.seed"),
        lambda c: draws_none(c),
        "pictures.prompts=[] draws no pictures",
    ),
    EffectRule(
        ("train",),
        ("sampler",),
        lambda c: draws_none(c) and not measures(c),
        "pictures.prompts=[] draws no pictures, and none are measured",
    ),
    EffectRule(
        ("train", "check"),
        ("metrics.every", "metrics.count", "metrics.steps", "metrics.seed"),
        lambda c: c.metrics.every is not None and not measures(c),
        "without features and clip_score, no pictures are measured",
    ),
    EffectRule(
        ("train", "check"),
        ("features", "clip_score", "metrics.count", "metrics.steps", "metrics.seed"),
        lambda c: c.metrics.every is None,
        "metrics.every=null measures no pictures",
    ),
    EffectRule(
        ("train",),
        ("held_out",),
        lambda c: bool(held(c)) and all(held(c)),
        "the cache's source names its held-out pictures itself",
    ),
    EffectRule(
        ("train",),
        ("validation.every", "validation.repeats", "validation.bins", "validation.examples"),
        lambda c: c.held_out == 0 and bool(held(c)) and not any(held(c)),
        "held_out=0, and the cache's source names no held-out pictures",
    ),
    EffectRule(
        ("train", "check"),
        ("prior.count", "prior.weight", "prior.steps", "prior.seed"),
        lambda c: c.prior.prompts is None,
        "prior.prompts names no class pictures",
    ),
    EffectRule(
        ("train", "check"),
        ("tags.keep",),
        lambda c: not (c.tags.shuffle or c.tags.dropout),
        "tags are neither shuffled nor left out",
    ),
    EffectRule(
        ("train_autoencoder",),
        ("equivariance_share",),
        lambda c: c.equivariance_weight == 0,
        "equivariance_weight=0 does not compute the error of scaled and turned latents",
    ),
    *map(every, DONE),
    EffectRule(FITTING, ("checkpoint.best_is",), lambda c: c.checkpoint.best is None, "checkpoint.best names no metric"),
    EffectRule(
        ("train", "check"),
        ("ema.start_step",),
        lambda c: steps(c, "ema.start_step") >= c.max_steps,
        "max_steps={max_steps} end before it, and until then the average is the weights themselves",
    ),
    EffectRule(
        ("train", "check"),
        ("ema.decay", "ema.start_step"),
        lambda c: c.optimizer.target.endswith(".ScheduleFree"),
        "optimizer=schedule_free averages the weights itself, and its average is kept instead",
    ),
    EffectRule(
        ("train",),
        ("guidance.weak",),
        lambda c: c.guidance.target.endswith("classifier_free"),
        "guidance=classifier_free guides away from the empty caption; a weaker model goes with guidance=autoguidance",
    ),
    EffectRule(
        ("train", "train_autoencoder", "encode", "check"),
        ("trainer.strategy", "trainer.timeout_minutes"),
        lambda c: c.trainer.devices == 1 and c.trainer.num_nodes == 1 and "WORLD_SIZE" not in os.environ,
        "trainer.devices=1 is one process",
    ),
    EffectRule(
        (*FITTING, "encode"),
        ("trainer.benchmark", "trainer.tf32"),
        lambda c: c.trainer.accelerator == "cpu",
        "it is of a GPU's convolutions",
    ),
    EffectRule(
        ("sample",),
        ("guidance.rescale", "guidance.interval", "negative_prompt"),
        lambda c: select(c, "guidance.scale") == 1 and c.x.guidance is None and c.y.guidance is None,
        "guidance.scale=1 is no guidance",
    ),
    EffectRule(
        ("sample",),
        ("negative_prompt",),
        lambda c: c.guidance is not None and c.guidance.target.endswith("autoguidance"),
        "guidance=autoguidance leads away from a weaker model",
    ),
    EffectRule(
        ("evaluate",),
        (*DRAWING, "seed", "taught"),
        lambda c: evaluation(c).endswith("HeldOut") and c.pictures is None and not (c.features or c.clip_score),
        "evaluation=held_out, without features and clip_score, draws no pictures",
    ),
    EffectRule(
        ("evaluate",),
        (*DRAWING, "seed", "weights", "samples", "taught", "batch_size", "devices", "cache"),
        lambda c: c.pictures is not None,
        "pictures={pictures} are there already",
    ),
    EffectRule(
        ("evaluate",),
        ("taught",),
        lambda c: c.prompts is not None or c.real is not None,
        "with prompts=… or real=… no trained captions are drawn",
    ),
    EffectRule(
        ("evaluate",),
        ("sampler", "spacing", "weights"),
        lambda c: c.pipeline is not None,
        "a pipeline brings its own",
    ),
    EffectRule(
        ("evaluate",),
        ("real",),
        lambda c: c.features is None,
        "features=null compares no pictures",
    ),
)

WARNINGS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        ("train", "check"),
        lambda c: c.caption_dropout == 0 and c.guidance.target.endswith("classifier_free") and c.guidance.get("scale") != 1,
        "caption_dropout=0 never trains the empty caption, from which guidance.scale={guidance.scale} leads away; "
        "set caption_dropout=0.1, or guidance.scale=1",
    ),
    (
        FITTING,
        lambda c: select(c, "optimizer.lr") is not None and steps(c, "lr_schedule.warmup_steps") >= c.max_steps,
        "lr_schedule.warmup_steps={lr_schedule.warmup_steps} is all of max_steps={max_steps}: optimizer.lr={optimizer.lr} "
        "is reached at the end at most",
    ),
    (FITTING, lambda c: select(c, "optimizer.lr") == 0, "optimizer.lr=0 trains nothing"),
    (
        ("train", "train_autoencoder", "encode"),
        lambda c: c.trainer.num_nodes > 1 and "MASTER_ADDR" not in os.environ and count_slurm_tasks() == 1,
        "trainer.num_nodes={trainer.num_nodes} waits for the other nodes: start the same command on each, with MASTER_ADDR, "
        "MASTER_PORT and NODE_RANK set; MASTER_ADDR is not",
    ),
)


def notes(verb: str, config: Any) -> list[str]:
    """Return a line for each changed setting without effect, and for each combination that trains badly."""
    lines = []
    for rule in RULES:
        if verb in rule.verbs and rule.holds(config):
            changed = [setting for name in rule.names for setting in _changed(verb, config, name)]
            if changed:
                effect = "has no effect" if len(changed) == 1 else "have no effect"
                lines.append(f"note: {', '.join(changed)} {effect}: {_filled(rule.because, config)}")
    bad = [text for verbs, holds, text in WARNINGS if verb in verbs and holds(config)]
    return lines + [Caution(_filled(text, config)) for text in bad]


def steps(config: Any, name: str) -> float:
    """The same where it counts steps; 0 where there is no such."""
    value = select(config, name)
    return value if isinstance(value, int | float) else 0


def draws_none(config: Any) -> bool:
    """Whether a run draws no pictures to be looked at."""
    return config.pictures.prompts is not None and not config.pictures.prompts


def measures(config: Any) -> bool:
    """Whether a run draws pictures to be measured."""
    return config.metrics.every is not None and (
        bool(config.metrics.own) or any(getattr(config, name, None) is not None for name in ("features", "clip_score"))
    )


def caches(config: Any) -> int:
    return len(config.cache) if isinstance(config.cache, list) else 1


def held(config: Any) -> list[bool]:
    """Of each cache, whether its source named held-out pictures; none where that cannot be read, which others will tell."""
    folders = config.cache if isinstance(config.cache, list) else [config.cache] if config.cache else []
    try:
        return [read_object(Path(f) / "manifest.json")["held_out"] not in (0, None) for f in folders]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def evaluation(config: Any) -> str:
    """The constructor of what `evaluate` measures: its own, or the run's."""
    if config.evaluation is not None:
        return str(config.evaluation.target)
    if config.run_dir is None:
        return ""
    try:
        return str(OmegaConf.select(read(Path(config.run_dir) / "config.yaml"), "evaluation._target_"))
    except (ConfigError, OmegaConfBaseException):
        return ""


def _changed(verb: str, config: CommandSettings, name: str) -> Iterator[str]:
    """Yield how a setting, or each of a group, that differs from the command's default was written."""
    group = name.partition(".")[0]
    # A setting of a group that the command leaves to the run began as the run's.
    of_run = name != group and group in DRAWING_GROUPS and select(plain(defaults(verb), resolve=False), group) is None
    value, default = select(config, name), select(plain(defaults("train" if of_run else verb), resolve=False), name)
    if not isinstance(value, Mapping):
        if value != default:
            yield f"{name}={format_value(value)}"
    elif not isinstance(default, Mapping) or value.get(TARGET) != default.get(TARGET):
        yield name
    else:
        for key, one in dict_settings(value):
            if one != select(default, key):
                yield f"{name}.{key}={format_value(one)}"


def _filled(text: str, config: Any) -> str:
    return re.sub(r"\{([\w.]+)\}", lambda found: format_value(select(config, found[1])), text)
