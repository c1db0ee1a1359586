"""The settings of groups: an option of a group is a constructor and what it is given.

The types of a constructor's arguments are those of its signature; this file adds what a signature cannot say: the ranges,
what the run itself passes to a constructor, what it reads itself and does not pass on, and what a continued run may change.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

from pydantic import model_validator

from ldm_train.settings.schema.kinds import (
    BelowOne,
    Choice,
    Count,
    DataFiles,
    FilePath,
    Finite,
    Length,
    MapPlaces,
    NotNegative,
    Positive,
    Range,
    Section,
    Share,
    Text,
    Texts,
    WholeNumber,
    Words,
    setting,
)

TARGET = "_target_"
OWN_KEYS = (TARGET, "_partial_", "_args_", "_convert_", "_recursive_")  # keys that say how a constructor is called


@dataclass(frozen=True)
class Part:
    """A chosen option of a group.

    Args:
        target: the full name of a class or function.
        arguments: what it is given; a nested mapping with a `_target_` is an object again.
        call: how it is called, such as `_partial_: true`.
        kept: what the run reads itself and does not pass to the constructor (`READ_BY_RUN`).
    """

    target: str
    arguments: dict[str, Any]
    call: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, or what the run keeps of the option; `default` if there is none."""
        return self.kept.get(name, self.arguments.get(name, default))

    def with_values(self, **values: object) -> "Part":
        """Return a part with other values of its arguments, or of what the run keeps of the option."""
        kept = {name: value for name, value in values.items() if name in self.kept}
        arguments = {name: value for name, value in values.items() if name not in kept}
        return replace(self, arguments=self.arguments | arguments, kept=self.kept | kept)

    def as_plain(self) -> dict[str, Any]:
        """Return the mapping that a config file holds."""
        return {TARGET: self.target, **self.call, **self.arguments, **self.kept}


Conditions = Annotated[
    list[Part], Words("a list of options of the group condition with their settings, [size,{number:{column:age}}]")
]

# What the run passes to the constructors of a group, and what it reads itself of a group's options.
PASSED: dict[str, set[str]] = {
    "crop": {"image_size"},
    "network": {"in_channels", "context_width", "vector_width"},
    "logger": {"save_dir"},
    "guidance": {"denoiser", "null", "unconditional"},
    "optimizer": {"params"},
    "source": {"commands"},
    "condition": {"latent_channels", "latent_factor", "to_model", "to_unscaled"},
}
# Settings that list options, and the group of these.
PART_LISTS = {"conditions": "condition", "text_encoder.encoders": "text_encoder"}
READ_BY_RUN: dict[str, frozenset[str]] = {
    "network": frozenset({"weights", "averaged", "add_input_channels"}),
    "guidance": frozenset({"weak"}),
    "adapter": frozenset({"weights"}),
}

Bound = Annotated[float, Range(float("-inf"), infinite=True)]

# Types of arguments that a signature leaves open, and ranges.
ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(("optimizer.lr", "optimizer.weight_decay", "lr_schedule.final"), NotNegative),
    **dict.fromkeys(("lr_schedule.warmup_steps", "lr_schedule.cooldown_steps", "ema.start_step"), WholeNumber),
    "optimizer.betas": list[Finite],
    "optimizer.fused": bool | None,
    "optimizer.adamw_for": Texts,
    "ema.decay": BelowOne,
    "ema.snapshot_every": Count,
    "network.dropout": BelowOne,
    "network.weights": FilePath | None,
    "network.averaged": bool,
    "network.add_input_channels": bool,
    "guidance.weak": FilePath,
    "guidance.interval": Annotated[list[Bound], Length(2), Words("[low, high]")] | None,
    "source.path": FilePath,
    **dict.fromkeys(("evaluation.batch_size", "evaluation.seeds"), Count),
    "evaluation.source": FilePath,
    **dict.fromkeys(("source.root", "source.captions_from", "autoencoder.weights", "text_encoder.weights"), FilePath | None),
    "text_encoder.tokenizer": FilePath | None,
    **dict.fromkeys(("source.download", "source.cache_dir", "features.weights"), FilePath | None),
    **dict.fromkeys(("features.pretrained", "clip_score.pretrained"), FilePath),
    "source.data_files": DataFiles | None,
    "source.maps": MapPlaces | None,
    "condition.dropout": BelowOne,
    "condition.weights": FilePath,
    **dict.fromkeys(("condition.channels", "condition.masks"), Count),
    **dict.fromkeys(("condition.low", "condition.high"), Finite | None),
    "adapter.weights": FilePath | None,
    "adapter.hint_channels": Annotated[list[Count], Words("widths, such as [16,32,96,256]")] | None,
    **dict.fromkeys(("adapter.targets", "adapter.text_targets", "logger.tags"), Texts),
    **dict.fromkeys(("text_encoder.new_words", "text_encoder.classes"), Texts | None),
    "timesteps.quantiles": Annotated[list[Share], Length(2), Words("[low, high], from 0 to 1")],
    "crop.areas": Annotated[list[Count], Words("a list of sides in pixels, such as [512,768]")] | None,
}

# Groups, and settings of groups, that a continued run may change: they do not change what is trained, or only by rounding.
FREE = {
    *("source", "features", "clip_score", "logger", "evaluation", "sampler", "spacing", "guidance"),
    *("ema.snapshot_every", "ema.dtype", "ema.offload", "network.gradient_checkpointing"),
    *("autoencoder.weights", "text_encoder.weights", "text_encoder.tokenizer", "optimizer.fused"),
}

MIXED_16 = ("16-mixed", "16")
STRATEGIES = (
    *("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false", "ddp_spawn", "ddp_fork"),
    "fsdp2",
)
PRECISIONS = (
    *("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "transformer-engine"),
    *("transformer-engine-float16", "32", "16", "64", "bf16"),
)
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")


@dataclass(frozen=True)
class Devices:
    """How many devices, their numbers, or all."""

    def problem(self, value: object) -> str | None:
        """Return what is accepted if a value names no device."""
        if isinstance(value, list):
            named = len(value) > 0 and all(number >= 0 for number in value)
        else:
            named = str(value) in ("auto", "-1") or bool(re.fullmatch(r"[1-9]\d*|\d+(,\d+)+,?|\d+,", str(value)))
        return None if named else f"names no device; accepted: {self}"

    def __str__(self) -> str:
        return "how many, their numbers as in [0,1], or -1 or auto for all that there are"


class TrainerSettings(Section, extra="allow"):
    """The settings of Lightning's Trainer that a run does not set itself; further ones of its arguments are accepted too."""

    accelerator: Annotated[str, Choice(ACCELERATORS)] = setting("auto", "where to compute", free=True)
    devices: Annotated[int | str | list[int], Devices()] = setting(1, "how many devices, or their numbers", free=True)
    num_nodes: Count = setting(1, "machines", free=True)
    strategy: Annotated[str, Choice(STRATEGIES)] = setting("auto", "how several processes share the work", free=True)
    precision: Annotated[Text, Choice(PRECISIONS)] = setting(
        "auto", "types of numbers in the forward pass; auto: bf16-mixed on a GPU that has bfloat16, else 32-true"
    )
    tf32: bool = setting(
        True, "multiply float32 numbers as TF32 on a GPU that can: several times faster, right to three digits", free=True
    )
    timeout_minutes: Positive = setting(
        30.0, "how long processes wait for each other, also while they verify the caches", free=True
    )
    gradient_clip_val: NotNegative | None = setting(None, "largest norm of the gradient; null: any")
    log_every_n_steps: Count = setting(50, "optimizer steps between lines of the log", free=True)
    deterministic: bool | Literal["warn"] | None = setting(None, "true: only operations that give equal bits", free=True)
    benchmark: bool | None = setting(None, "let cuDNN choose its routines by timing them", free=True)


class CommandSettings(Section):
    """All settings of a command: its own, and the chosen options of its groups."""

    debug: bool = setting(False, "show where an error came from", free=True)

    @model_validator(mode="before")
    @classmethod
    def _read_parts(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        parts = {name: read_part(name, values[name]) for name in list_part_groups(cls) if name in values}
        lists = {name: read_parts(group, values[name]) for name, group in PART_LISTS.items() if name in values}
        return {**values, **parts, **lists}

    def as_plain(self) -> dict[str, Any]:
        """Return the settings as a config file holds them, without the groups of which no option is chosen."""
        groups = list_part_groups(type(self))
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: _plain(value) for name, value in values.items() if value is not None or name not in groups}

    def with_values(self, **values: object) -> Self:
        """Return settings with other values."""
        return self.model_copy(update=values)


def list_part_groups(settings: type[Section]) -> dict[str, bool]:
    """Return the groups of a command's settings, and whether it can do without each."""
    found = {name: info.annotation for name, info in settings.model_fields.items()}
    groups = {name: kind == Part | None for name, kind in found.items() if kind in (Part, Part | None)}
    return groups | ({"trainer": False} if "trainer" in found else {})


def read_part(group: str, value: object) -> object:
    """Return a mapping with a `_target_` as a part; anything else as it is."""
    if not isinstance(value, Mapping) or TARGET not in value:
        return value
    kept = READ_BY_RUN.get(group, frozenset())
    return Part(
        str(value[TARGET]),
        {str(key): one for key, one in value.items() if key not in OWN_KEYS and key not in kept},
        {str(key): one for key, one in value.items() if key in OWN_KEYS and key != TARGET},
        {str(key): one for key, one in value.items() if key in kept},
    )


def read_parts(group: str, values: object) -> object:
    """Return the mappings with a `_target_` in a list as parts; anything else as it is."""
    return [read_part(group, value) for value in values] if isinstance(values, list) else values


def _plain(value: object) -> object:
    if isinstance(value, Part):
        return value.as_plain()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, Section):
        return {
            name: _plain(one) for name, one in value.model_dump(exclude_unset=isinstance(value, TrainerSettings)).items()
        }
    return value


def select(config: object, name: str) -> Any:
    """Return a setting by its dotted name; None if there is none."""
    found: Any = config.as_plain() if isinstance(config, CommandSettings) else config
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def dict_settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted names and values of plain settings."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from dict_settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
