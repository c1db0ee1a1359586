"""Plot what was logged over the steps, of one run or of several in the same plots."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ldm_train.reports.curves import Charts, CurveLine, Curves, smooth_values
from ldm_train.run_dir.metric_names import BINS, LIMITS, metric_title, plain_title, say_if_few_held_out
from ldm_train.run_dir.reading import RunRead
from ldm_train.run_dir.run_settings import list_loss_differences
from ldm_train.util.held_out_figures import pair_names

SMOOTHED = 40  # a running mean covers 1/40 of a run's values
FEW = 40  # a line with at most so many values has a dot at each
WIDE = 10.0  # ratio of the highest to the lowest value above which the axis is logarithmic
MEASURED = (
    *("validation_loss", "validation_loss_raw", "taught_validation_loss"),
    *("validation_noise_mse", "validation_noise_mse_raw", "taught_validation_noise_mse"),
)
TRAINED = "trained, averaged weights"
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
class ReportedRun:
    """A run in a report.

    Args:
        name: its name in the report.
        number: its position, which decides its colour.
        is_only: whether the report has no other run.
    """

    name: str
    run: RunRead
    number: int
    is_only: bool

    def label(self, words: str) -> str:
        """Return a label, preceded by the name of the run if there are several."""
        if self.is_only:
            return words
        return f"{self.name}: {words}" if words else self.name


def plot_losses(runs: Sequence[ReportedRun]) -> Charts:
    """Plot the training loss, logged and smoothed."""
    plot = _noisy(runs, "loss", "Training loss")
    return Charts([replace(plot, note=join_notes(plot.note, describe_targets(runs)))])


def plot_validation(runs: Sequence[ReportedRun]) -> Charts:
    """Plot the losses of held-out and of trained examples, and the error of the noise that the losses imply."""
    forms = {
        "validation_loss": "held out, averaged weights",
        "validation_loss_raw": "held out, raw weights",
        "taught_validation_loss": TRAINED,
    }
    errors = {name.replace("loss", "noise_mse"): label for name, label in forms.items()}
    measured, implied = _plot(runs, forms, "Validation loss"), _noisy(runs, "noise_mse", "Error of the noise")
    held_out = _plot(runs, errors, "", first_colour=1)
    few = [one.label(text) for one in runs if (text := say_if_few_held_out(one.run))]
    measured = replace(measured, note=join_notes(measured.note, describe_targets(runs), *few))
    return Charts([measured, replace(implied, lines=[*implied.lines, *held_out.lines])])


def describe_targets(runs: Sequence[ReportedRun]) -> str:
    """Return a warning if the losses of these runs are not of one kind, else nothing."""
    differences = list_loss_differences([one.run for one in runs])
    return f"not of one kind ({'; '.join(differences)}): compare the error of the noise instead" if differences else ""


def join_notes(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def plot_metrics(runs: Sequence[ReportedRun]) -> Charts:
    """Plot each metric of sets of pictures; of held-out and trained captions together, if there are both."""
    names = list_metric_names(runs)
    pairs = pair_names(names)
    plots = []
    for name, taught in pairs.items():
        forms = {name: "held out", taught: "trained"} if {name, taught} <= set(names) else {name: "", taught: ""}
        plots.append(_plot(runs, forms, metric_title(name if name in names else taught)))
    return Charts(plots)


def plot_health(runs: Sequence[ReportedRun]) -> Charts:
    """Plot gradient norms, learning rates and updates."""
    plots = [_noisy(runs, "grad_norm", HEALTH["grad_norm"])]
    plots += [_plot(runs, {name: ""}, title, log=False) for name, title in HEALTH.items() if name != "grad_norm"]
    for one in runs:
        blocks = {name: name.removeprefix(RATIO) for name in one.run.series if name.startswith(RATIO)}
        title = "Update over weight, by block" + ("" if one.is_only else f": {one.name}")
        plots.append(_plot([ReportedRun(one.name, one.run, 0, is_only=True)], blocks, title, log=True))
    return Charts(plots)


def plot_machine(runs: Sequence[ReportedRun]) -> Charts:
    """Plot speed, utilisation, memory and other times."""
    others = sorted(
        {name for one in runs for name in one.run.series if name.startswith("time/") and not name.startswith(SHARES)}
        - CLOCK.keys() - {*UNSHOWN}
    )  # fmt: skip
    titles = CLOCK | {name: plain_title(name.removeprefix("time/")) for name in others}
    speed, *rest = titles.items()
    return Charts([_noisy(runs, *speed, log=False), *(_plot(runs, {name: ""}, title, log=False) for name, title in rest)])


def plot_others(runs: Sequence[ReportedRun]) -> Charts:
    """Plot everything else that was logged."""
    known = {*LOSSES, *HEALTH, *CLOCK, *MEASURED}
    names: dict[str, None] = {}
    for one in runs:
        for name in one.run.series:
            plotted = name in known or name.startswith((RATIO, BINS, "time/", "metrics/")) or _is_limit(name, one.run)
            if not plotted:
                names[name] = None
    return Charts([_plot(runs, {name: ""}, metric_title(name.removeprefix("health/"))) for name in names])


def list_metric_names(runs: Sequence[ReportedRun]) -> list[str]:
    """Return the names of the metrics of sets of pictures that any run logged."""
    names = {name for one in runs for name in one.run.series if name.startswith("metrics/")}
    return sorted(name for name in names if not any(_is_limit(name, one.run) for one in runs))


def _noisy(runs: Sequence[ReportedRun], name: str, title: str, *, log: bool | None = None) -> Curves:
    """Plot each logged value faintly, and on top of them their running mean, taken twice for a smooth curve."""
    lines, spans = [], set()
    for one in (one for one in runs if name in one.run.series):
        series = one.run.series[name]
        steps, width = series.steps.astype(np.float64), 2 * (len(series.values) // (2 * SMOOTHED)) + 1
        logged = CurveLine(one.label("as logged" if one.is_only else ""), steps, series.values, colour=one.number)
        lines.append(replace(logged, faint=width > 1))
        if width > 1:
            mean = smooth_values(smooth_values(series.values, width), width)
            lines.append(CurveLine(one.label("mean" if one.is_only else ""), steps, mean, colour=one.number))
            spans.add(2 * width - 1)
    note = f"running means over {' or '.join(map(str, sorted(spans)))} logged steps" if spans else ""
    return Curves(title, lines, log=_is_wide(lines) if log is None else log, note=note)


def _plot(
    runs: Sequence[ReportedRun], named: dict[str, str], title: str, *, log: bool | None = None, first_colour: int = 0
) -> Curves:
    """Plot series with the same unit; a colour stands for a run, or for a series if there is only one run.

    Args:
        named: the name of each series in the legend.
        first_colour: the first colour for series, if colours before it belong to other lines of the plot.
    """
    lines = []
    for one in runs:
        for i, name in enumerate([name for name in named if name in one.run.series], start=first_colour):
            series, (low, high) = one.run.series[name], _limits(one.run, name)
            label, steps = one.label(named[name] or ("value" if one.is_only else "")), series.steps.astype(np.float64)
            line = CurveLine(label, steps, series.values, low, high, dots=len(steps) <= FEW)
            lines.append(replace(line, colour=i if one.is_only else one.number, dashed=i > 0 and not one.is_only))
    log = _is_wide(lines) if log is None else log and _is_positive(lines)
    return Curves(title, lines, log=log, note="bands: 95 % intervals" if any(one.low is not None for one in lines) else "")


def _limits(run: RunRead, name: str) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return the ends of the intervals at the steps of a series, or None for both if they were not logged."""
    ends = [run.series.get(f"{name}{end}") for end in LIMITS]
    if any(end is None for end in ends):
        return None, None
    columns = [dict(zip(end.steps.tolist(), end.values.tolist(), strict=True)) for end in ends if end is not None]
    low, high = (np.array([column.get(step, np.nan) for step in run.series[name].steps.tolist()]) for column in columns)
    return low, high


def _is_limit(name: str, run: RunRead) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in run.series for end in LIMITS)


def _is_wide(lines: Sequence[CurveLine]) -> bool:
    values = [value for line in lines if not line.faint for value in line.y[np.isfinite(line.y)].tolist()]
    return bool(values) and min(values) > 0 and max(values) > WIDE * min(values)


def _is_positive(lines: Sequence[CurveLine]) -> bool:
    return any((line.y > 0).any() for line in lines)
