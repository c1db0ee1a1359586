"""What values settings may have, as tables: a value outside is refused before anything is read, whatever the verb."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig, ListConfig, OmegaConf

from ldm_train.settings.plot_axes import problems
from ldm_train.settings.shipped import nearest
from ldm_train.settings.size_limits import too_large
from ldm_train.settings.values import empty_paths, leaves, wrong_numbers


@dataclass(frozen=True)
class Range:
    """Numbers from `low` on, to `high` or below it; null is no number, and left to others."""

    low: float
    high: float = math.inf
    below: bool = False  # high itself is refused
    whole: bool = False

    def holds(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return math.isfinite(value) and self.low <= value and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        kind = "a whole number " if self.whole else ""
        if self.high == math.inf:
            return f"{kind}of at least {self.low:g}" if kind else f"at least {self.low:g}"
        return f"{kind}from {self.low:g} to {'below ' if self.below else ''}{self.high:g}"


COUNT, NUMBER = Range(1, whole=True), Range(0, whole=True)
NOT_NEGATIVE, SHARE, BELOW_ONE = Range(0), Range(0, 1), Range(0, 1, below=True)

RANGES: dict[str, Range] = {
    **dict.fromkeys(("batch_size", "encode_batch_size", "devices", "micro_batch_size", "evaluation.batch_size"), COUNT),
    **dict.fromkeys(("max_steps", "steps", "pictures.steps", "metrics.steps", "trainer.log_every_n_steps"), COUNT),
    **dict.fromkeys(("checkpoint.every", "validation.every", "pictures.every", "metrics.every", "health.every"), COUNT),
    **dict.fromkeys(("checkpoint.keep", "checkpoint.keep_every", "max_nonfinite_steps", "ema.snapshot_every"), COUNT),
    **dict.fromkeys(("validation.repeats", "validation.bins", "validation.examples"), COUNT),
    **dict.fromkeys(("pictures.count", "evaluation.seeds", "count"), COUNT),
    "interpolate": Range(2, whole=True),
    **dict.fromkeys(("prior.count", "prior.steps"), COUNT),
    "metrics.count": Range(4, whole=True),
    **dict.fromkeys(("image_size", "max_pixels", "threads", "trainer.num_nodes"), COUNT),
    "samples": COUNT,
    "resamples": NUMBER,
    **dict.fromkeys(("workers", "lr_schedule.warmup_steps", "lr_schedule.cooldown_steps", "ema.start_step"), NUMBER),
    **dict.fromkeys(("optimizer.lr", "optimizer.weight_decay", "lr_schedule.final", "prior.weight"), NOT_NEGATIVE),
    **dict.fromkeys(("offset_noise", "input_perturbation", "mse_weight", "kl_weight"), NOT_NEGATIVE),
    **dict.fromkeys(("trainer.gradient_clip_val", "price_per_hour"), NOT_NEGATIVE),
    **dict.fromkeys(("caption_dropout", "strength"), SHARE),
    **dict.fromkeys(("held_out", "ema.decay", "network.dropout"), BELOW_ONE),
}

MIXED_16 = ("16-mixed", "16", 16)
CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": ("float16", "bfloat16", "float32"),
    "layout": ("own", "diffusers", "single_file", "lora"),
    "lora_format": ("diffusers", "kohya"),
    "unchanged_by": ("hash", "stat"),
    "resume": ("auto", "never", "restart"),
    "blend": ("slerp", "lerp"),
    "format": ("table", "json"),
    "checkpoint.best_is": ("lowest", "highest"),
    "device": ("auto", "cpu", "cuda", "cuda:0", "mps", "xpu"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    "trainer.strategy": (
        *("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false", "ddp_spawn", "ddp_fork"),
        "fsdp2",
    ),
    "trainer.precision": (
        *("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "transformer-engine"),
        *("transformer-engine-float16", "32", "16", "64", "bf16"),
    ),
}
NUMBERED = {"device": re.compile(r"(cuda|xpu):\d+")}  # beside the choices
AUTO = {"micro_batch_size", "devices"}  # may be this word instead of a number


def out_of_range(config: DictConfig) -> list[str]:
    """A message for each value that is refused, in the order of the tables."""
    numbers = list(_numbers(config))
    named = {reason.partition("=")[0] for reason in numbers}
    others = [*wrong_numbers(config), *too_large(leaves(config))]
    others = [reason for reason in others if reason.partition("=")[0] not in named]
    return [*empty_paths(config), *numbers, *others, *_choices(config), *_devices(config), *problems(config)]


def _numbers(config: DictConfig) -> Iterator[str]:
    for name, accepted in RANGES.items():
        value = OmegaConf.select(config, name)
        if value is None or (name in AUTO and value == "auto"):
            continue
        if not accepted.holds(value):
            yield f"{name}={value} must be {accepted}{', or auto' if name in AUTO else ''}"


def _choices(config: DictConfig) -> Iterator[str]:
    for name, known in CHOICES.items():
        value = OmegaConf.select(config, name)
        numbered = NUMBERED.get(name)
        if value is not None and str(value) not in known and not (numbered and numbered.fullmatch(str(value))):
            yield f"{name}={value} is not known; accepted: {', '.join(known)}{nearest(str(value), known)}"


def _devices(config: DictConfig) -> Iterator[str]:
    trainer = config.get("trainer")
    if trainer is None:
        return
    if not _some(trainer.devices):
        yield (
            f"trainer.devices={trainer.devices} names no device; accepted: how many, their numbers as in [0,1], "
            "or -1 or auto for all that there are"
        )
    if trainer.accelerator == "cpu" and trainer.precision in MIXED_16:
        yield on_a_cpu(trainer.precision)


def on_a_cpu(precision: object) -> str:
    """Why 16-bit floats with a scaled loss are refused there."""
    return (
        f"trainer.precision={precision} needs a GPU: on a CPU Lightning would compute in bf16-mixed instead; "
        "choose trainer.precision=bf16-mixed or 32-true"
    )


def _some(devices: object) -> bool:
    if isinstance(devices, Sequence | ListConfig) and not isinstance(devices, str):
        return len(devices) > 0 and all(NUMBER.holds(device) for device in devices)
    text = str(devices)
    return text in ("auto", "-1") or bool(re.fullmatch(r"[1-9]\d*|\d+(,\d+)+,?|\d+,", text))
