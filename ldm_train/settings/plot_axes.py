"""The axes of an X/Y plot of pictures, as settings: what may vary along one, and what is refused at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldm_train.settings.foreign_names import suggest_option
from ldm_train.settings.schema.sample_options import AxisSettings
from ldm_train.settings.schema.using import EvaluateSettings, SampleSettings
from ldm_train.settings.shipped import groups, shipped_part

AXES = ("x", "y")


@dataclass(frozen=True)
class Axis:
    """What varies along it, and the values there."""

    name: str
    values: list[object]

    def labels(self) -> list[str]:
        """Each value as it stands next to its row or column."""
        if self == NONE:
            return [""]
        if self.name == "checkpoint":
            return [str(value).rstrip("/") for value in self.values]
        shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in self.values]
        return shown if self.name in ("prompt", "sampler") else [f"{self.name} {value}" for value in shown]


NONE = Axis("", [None])


def read_axes(settings: SampleSettings, prompts: Sequence[object]) -> tuple[Axis, Axis]:
    """Return the columns and the rows that checked settings ask for; an axis that they leave out has one place."""
    x, y = (_read_axis(getattr(settings, name), prompts) for name in AXES)
    return x, y


def _read_axis(axis: AxisSettings, prompts: Sequence[object]) -> Axis:
    for name in given_names(axis):
        return Axis(name, list(prompts) if name == "prompt" else list(getattr(axis, name)))
    return NONE


def has_axes(settings: SampleSettings) -> bool:
    """Return whether anything varies along an axis."""
    return any(given_names(getattr(settings, name)) for name in AXES)


def axis_problems(settings: object) -> Iterator[str]:
    """Yield a message for each axis that cannot be drawn, of a plot or of an evaluation's sweep."""
    if isinstance(settings, EvaluateSettings):
        for name in ("guidance", "steps"):
            yield from _values(f"sweep.{name}", name, getattr(settings.sweep, name))
    if isinstance(settings, SampleSettings):
        yield from _plot_problems(settings)
        yield from _strip_problems(settings)


def _plot_problems(settings: SampleSettings) -> Iterator[str]:
    given = {axis: given_names(getattr(settings, axis)) for axis in AXES}
    for axis, names in given.items():
        if len(names) > 1:
            yield f"{axis}.{names[0]} and {axis}.{names[1]} are two axes; give one of them to {_other(axis)}"
        for name in names:
            yield from _values(f"{axis}.{name}", name, getattr(getattr(settings, axis), name))
    for name in sorted({*given["x"]} & {*given["y"]}):
        yield f"x.{name} and y.{name} are the same axis twice; vary something else along one of them"


def _strip_problems(settings: SampleSettings) -> Iterator[str]:
    """Yield what contradicts an interpolation."""
    if settings.interpolate is None:
        if settings.to_seed is not None:
            yield f"to_seed={settings.to_seed} is where an interpolation's noise goes to; add interpolate=8, or vary x.seed"
        return
    if settings.count != 1:
        yield f"count={settings.count} does not go with interpolate={settings.interpolate}, one picture for each share"
    if any(given_names(getattr(settings, axis)) for axis in AXES):
        yield f"interpolate={settings.interpolate} and axes are two kinds of plots; give one"


def given_names(axis: object) -> list[str]:
    """Return what varies along an axis."""
    return [name for name in KINDS if getattr(axis, name) is not None]


def _other(axis: str) -> str:
    return "y" if axis == "x" else "x"


def _values(setting: str, name: str, values: object) -> Iterator[str]:
    if name == "prompt" or values is None:
        return
    if not isinstance(values, list) or not values:
        yield f"{setting}={values} must be a list of {KINDS[name].accepted}, such as {setting}={KINDS[name].example}"
        return
    for value in values:
        if not KINDS[name].holds(value):
            hint = suggest_option("sampler", str(value), groups()["sampler"]) if name == "sampler" else ""
            yield f"{setting}={values}: {value} is not one of {KINDS[name].accepted}{hint}"


@dataclass(frozen=True)
class Kind:
    """What the values of an axis are."""

    accepted: str
    example: str
    holds: Callable[[object], bool]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(least: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _checkpoint(value: object) -> bool:
    return value in ("ema", "raw") or (Path(str(value)) / "config.yaml").is_file() or is_file(value)


def is_file(value: object) -> bool:
    """Whether a checkpoint is an exported file that is there."""
    return str(value).endswith(".safetensors") and Path(str(value)).is_file()


KINDS: dict[str, Kind] = {
    "guidance": Kind("numbers (of guidance.scale)", "[1,1.5,2]", _number),
    "steps": Kind("whole numbers from 1", "[10,20]", _whole(1)),
    "sampler": Kind(f"samplers ({', '.join(groups()['sampler'])})", "[ddim,heun]", lambda v: v in groups()["sampler"]),
    "checkpoint": Kind("ema, raw, run directories and files of `ldm-train export`", "[ema,raw]", _checkpoint),
    "prompt": Kind("", "", lambda value: value is True),
    "seed": Kind("whole numbers", "[0,1,2]", _whole(0)),
}


def place(settings: SampleSettings, axis: Axis, value: object) -> SampleSettings:
    """Return a command's settings at a place on an axis."""
    if axis.name == "guidance":
        assert settings.guidance is not None
        return settings.with_values(guidance=settings.guidance.with_values(scale=value))
    if axis.name == "sampler":
        return settings.with_values(sampler=shipped_part("sampler", str(value)))
    if axis.name == "checkpoint":
        return settings.with_values(**{"weights" if value in ("ema", "raw") or is_file(value) else "run_dir": value})
    return settings.with_values(**{axis.name: value}) if axis.name in ("steps", "seed") else settings
