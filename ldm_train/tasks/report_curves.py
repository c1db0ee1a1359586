"""A report's curves: what was logged over the steps, of one run or of several in the same plots."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldm_train.reports.curves import Charts, Curves, Line, smooth
from ldm_train.tasks.run_reading import RunRead, Series

SMOOTHED = 40  # stretches of a run, over one of which a noisy curve is averaged
FEW = 40  # values, which are marked each
WIDE = 10.0  # from the lowest to the highest value times this much, a logarithmic axis shows more
LIMITS = ("_low", "_high")
FORMS = {"validation_loss": "validation_loss_raw", "validation_noise_mse": "validation_noise_mse_raw"}

# Of which noise a step meets its loss, its gradient and the speed are as noisy.
LOSSES = ("loss", "noise_mse")
HEALTH = {
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "health/clipped": "Share of clipped steps",
    "health/ema_distance": "Distance of the averaged weights",
}
CLOCK = {
    "time/samples_per_second": "Examples per second",
    "time/utilisation": "Utilisation",
    "time/memory_gib": "Memory, GiB",
}
RATIO = "health/update_ratio/"
SHARES = ("time/share_", "time/wait_for_data")
UNSHOWN = ("time/minutes_left",)


@dataclass(frozen=True)
class Shown:
    """A run with the name that the report gives it, and whether it is the only one."""

    name: str
    run: RunRead
    number: int
    alone: bool

    def label(self, words: str) -> str:
        if self.alone:
            return words
        return f"{self.name}: {words}" if words else self.name


def losses(shown: Sequence[Shown]) -> Charts:
    """The training loss, each step and smoothed."""
    return Charts([_noisy(shown, "loss", "Training loss")])


def validation(shown: Sequence[Shown]) -> Charts:
    """What was measured on held-out examples, and what else the loss says."""
    measured = [
        _plot(shown, {"validation_loss": "averaged weights", "validation_loss_raw": "raw weights"}, "Validation loss"),
        _plot(shown, {"validation_noise_mse": "averaged weights", "validation_noise_mse_raw": "raw weights"},
              "Error of the noise, held-out examples"),
        _noisy(shown, "noise_mse", "Error of the noise, in training"),
    ]  # fmt: skip
    return Charts(measured)


def metrics(shown: Sequence[Shown]) -> Charts:
    """A plot for each metric of sets of pictures."""
    return Charts([_plot(shown, {name: ""}, name.removeprefix("metrics/")) for name in metric_names(shown)])


def health(shown: Sequence[Shown]) -> Charts:
    """Gradients, rates and updates."""
    plots = [_noisy(shown, "grad_norm", HEALTH["grad_norm"])]
    plots += [_plot(shown, {name: ""}, title, log=False) for name, title in HEALTH.items() if name != "grad_norm"]
    for one in shown:
        blocks = {name: name.removeprefix(RATIO) for name in one.run.series if name.startswith(RATIO)}
        title = "Update over weight, by block" + ("" if one.alone else f": {one.name}")
        plots.append(_plot([Shown(one.name, one.run, 0, alone=True)], blocks, title, log=True))
    return Charts(plots)


def machine(shown: Sequence[Shown]) -> Charts:
    """What is of the clock and of the machine."""
    others = sorted(
        {name for one in shown for name in one.run.series if name.startswith("time/") and not name.startswith(SHARES)}
        - CLOCK.keys() - {*UNSHOWN}
    )  # fmt: skip
    titles = CLOCK | {name: _title(name.removeprefix("time/")) for name in others}
    return Charts([_plot(shown, {name: ""}, title, log=False) for name, title in titles.items()])


def others(shown: Sequence[Shown]) -> Charts:
    """Whatever else was logged."""
    known = {*LOSSES, *HEALTH, *CLOCK, *FORMS, *FORMS.values()}
    found: dict[str, None] = {}
    for one in shown:
        for name in one.run.series:
            own = name in known or name.startswith((RATIO, "time/", "metrics/")) or _is_limit(name, one.run)
            if not own:
                found[name] = None
    return Charts([_plot(shown, {name: ""}, _title(name.removeprefix("health/"))) for name in found])


def metric_names(shown: Sequence[Shown]) -> list[str]:
    """The metrics of sets of pictures that any of the runs logged."""
    found = {name for one in shown for name in one.run.series if name.startswith("metrics/")}
    return sorted(name for name in found if not any(_is_limit(name, one.run) for one in shown))


def lower_is_better(name: str) -> bool:
    """Whether the lowest value of this metric is its best."""
    return any(word in name for word in ("loss", "mse", "kid", "fid", "distance", "error", "kl"))


def best(name: str, series: Series) -> tuple[int, float] | None:
    """The step and the value that are best, of those that are finite."""
    kept = series.finite
    if not len(kept.values):
        return None
    at = int(kept.values.argmin() if lower_is_better(name) else kept.values.argmax())
    return int(kept.steps[at]), float(kept.values[at])


def _noisy(shown: Sequence[Shown], name: str, title: str) -> Curves:
    """Each logged value in the back, their running mean before it."""
    lines, widths = [], set()
    for one in (one for one in shown if name in one.run.series):
        series = one.run.series[name]
        steps, width = series.steps.astype(np.float64), 2 * (len(series.values) // (2 * SMOOTHED)) + 1
        if width > 1:
            widths.add(width)
            lines.append(Line(one.label("as logged"), steps, series.values, colour=one.number, faint=True))
        label = one.label("mean") if width > 1 else one.label("" if not one.alone else "as logged")
        lines.append(Line(label, steps, smooth(series.values, width) if width > 1 else series.values, colour=one.number))
    told = f"means over {' or '.join(str(width) for width in sorted(widths))} logged steps" if widths else ""
    return Curves(title, lines, log=_is_wide(lines), note=told)


def _plot(shown: Sequence[Shown], named: dict[str, str], title: str, *, log: bool | None = None) -> Curves:
    """Lines of the same unit; colours tell runs apart, or the lines of the only one."""
    lines, bands = [], False
    for one in shown:
        found = {name: words for name, words in named.items() if name in one.run.series}
        for i, (name, words) in enumerate(found.items()):
            low, high = _limits(one.run, name)
            bands |= low is not None
            series = one.run.series[name]
            lines.append(
                Line(
                    one.label(words or ("value" if one.alone else "")),
                    series.steps.astype(np.float64),
                    series.values,
                    low,
                    high,
                    colour=i if one.alone else one.number,
                    dashed=i > 0 and not one.alone,
                    dots=len(series.steps) <= FEW,
                )
            )
    return Curves(title, lines, log=_is_wide(lines) if log is None else log and _is_positive(lines),
                  note="bands: 95 % intervals" if bands else "")  # fmt: skip


def _limits(run: RunRead, name: str) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """The interval's ends at the steps of a series."""
    found = [run.series.get(f"{name}{end}") for end in LIMITS]
    if any(one is None for one in found):
        return None, None
    columns = [dict(zip(one.steps.tolist(), one.values.tolist(), strict=True)) for one in found if one is not None]
    low, high = (np.array([column.get(step, np.nan) for step in run.series[name].steps.tolist()]) for column in columns)
    return low, high


def _is_limit(name: str, run: RunRead) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in run.series for end in LIMITS)


def _is_wide(lines: Sequence[Line]) -> bool:
    values = [value for line in lines if not line.faint for value in line.y[np.isfinite(line.y)].tolist()]
    return bool(values) and min(values) > 0 and max(values) > WIDE * min(values)


def _is_positive(lines: Sequence[Line]) -> bool:
    return any((line.y > 0).any() for line in lines)


def _title(name: str) -> str:
    return name.replace("_", " ")
