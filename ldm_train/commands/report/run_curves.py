"""A report's curves: what was logged over the steps, of one run or of several in the same plots."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ldm_train.reports.curves import Charts, CurveLine, Curves, smooth_values
from ldm_train.run_dir.metric_names import BINS, LIMITS, metric_title, plain_title
from ldm_train.run_dir.reading import RunRead

SMOOTHED = 40  # stretches of a run, over one of which the values around each are averaged, twice
FEW = 40  # values, which are marked each
WIDE = 10.0  # from the lowest to the highest value times this much, a logarithmic axis shows more
MEASURED = ("validation_loss", "validation_loss_raw", "validation_noise_mse", "validation_noise_mse_raw")
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
    """What was measured on held-out examples, and the error of the noise that the losses imply."""
    forms = {"validation_loss": "averaged weights", "validation_loss_raw": "raw weights"}
    errors = {"validation_noise_mse": "held out, averaged weights", "validation_noise_mse_raw": "held out, raw weights"}
    measured, implied = _plot(shown, forms, "Validation loss"), _noisy(shown, "noise_mse", "Error of the noise")
    beside = _plot(shown, errors, "", beside=True)
    return Charts([measured, replace(implied, lines=[*implied.lines, *beside.lines])])


def metrics(shown: Sequence[Shown]) -> Charts:
    """A plot for each metric of sets of pictures."""
    return Charts([_plot(shown, {name: ""}, metric_title(name)) for name in metric_names(shown)])


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
    titles = CLOCK | {name: plain_title(name.removeprefix("time/")) for name in others}
    speed, *rest = titles.items()
    return Charts([_noisy(shown, *speed, log=False), *(_plot(shown, {name: ""}, title, log=False) for name, title in rest)])


def others(shown: Sequence[Shown]) -> Charts:
    """Whatever else was logged."""
    known = {*LOSSES, *HEALTH, *CLOCK, *MEASURED}
    found: dict[str, None] = {}
    for one in shown:
        for name in one.run.series:
            own = name in known or name.startswith((RATIO, BINS, "time/", "metrics/")) or _is_limit(name, one.run)
            if not own:
                found[name] = None
    return Charts([_plot(shown, {name: ""}, metric_title(name.removeprefix("health/"))) for name in found])


def metric_names(shown: Sequence[Shown]) -> list[str]:
    """The metrics of sets of pictures that any of the runs logged."""
    found = {name for one in shown for name in one.run.series if name.startswith("metrics/")}
    return sorted(name for name in found if not any(_is_limit(name, one.run) for one in shown))


def _noisy(shown: Sequence[Shown], name: str, title: str, *, log: bool | None = None) -> Curves:
    """Each logged value in the back, their running mean (twice, so that no edge shows) before it."""
    lines, spans = [], set()
    for one in (one for one in shown if name in one.run.series):
        series = one.run.series[name]
        steps, width = series.steps.astype(np.float64), 2 * (len(series.values) // (2 * SMOOTHED)) + 1
        logged = CurveLine(one.label("as logged" if one.alone else ""), steps, series.values, colour=one.number)
        lines.append(replace(logged, faint=width > 1))
        if width > 1:
            mean = smooth_values(smooth_values(series.values, width), width)
            lines.append(CurveLine(one.label("mean" if one.alone else ""), steps, mean, colour=one.number))
            spans.add(2 * width - 1)
    told = f"running means over {' or '.join(map(str, sorted(spans)))} logged steps" if spans else ""
    return Curves(title, lines, log=_is_wide(lines) if log is None else log, note=told)


def _plot(
    shown: Sequence[Shown], named: dict[str, str], title: str, *, log: bool | None = None, beside: bool = False
) -> Curves:
    """Lines of the same unit; colours tell runs apart, or the lines of the only one.

    Args:
        named: what each series is called in the legend.
        beside: they are drawn beside another line of each run.
    """
    lines = []
    for one in shown:
        found = [name for name in named if name in one.run.series]
        for i, name in enumerate(found, start=int(beside)):
            series, (low, high) = one.run.series[name], _limits(one.run, name)
            label, steps = one.label(named[name] or ("value" if one.alone else "")), series.steps.astype(np.float64)
            line = CurveLine(label, steps, series.values, low, high, dots=len(steps) <= FEW)
            lines.append(replace(line, colour=i if one.alone else one.number, dashed=i > 0 and not one.alone))
    log = _is_wide(lines) if log is None else log and _is_positive(lines)
    return Curves(title, lines, log=log, note="bands: 95 % intervals" if any(one.low is not None for one in lines) else "")


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


def _is_wide(lines: Sequence[CurveLine]) -> bool:
    values = [value for line in lines if not line.faint for value in line.y[np.isfinite(line.y)].tolist()]
    return bool(values) and min(values) > 0 and max(values) > WIDE * min(values)


def _is_positive(lines: Sequence[CurveLine]) -> bool:
    return any((line.y > 0).any() for line in lines)
