"""Curves over steps: drawn by the page without a script, which then lets people zoom, choose a scale and hide lines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import ClassVar

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ldm_train.reports.axes import Axis, number
from ldm_train.reports.safe_text import line

POINTS = 800  # of a line, at most
DRAWN = 250  # of the same line where no script draws it
COLOURS = 8
ROWS = 12  # of the table of values


@dataclass(frozen=True)
class Line:
    """One curve; values that are not finite leave gaps.

    Args:
        low: of a band around it, with `high`; of as many values.
        colour: its number among the page's colours; None for the next one.
        faint: drawn in the back, as what another line smooths.
        dashed: as what is compared with a whole line of the same colour.
        dots: each value is marked, for they are few.
    """

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    colour: int | None = None
    faint: bool = False
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Curves:
    """Lines in one plot, with a legend.

    Args:
        log: whether its vertical axis is logarithmic at first.
        x_name: of the horizontal axis; plots of the same name are zoomed together.
        note: beneath the title.
    """

    title: str
    lines: Sequence[Line]
    log: bool = False
    x_name: str = "step"
    unit: str = ""
    note: str = ""

    @property
    def empty(self) -> bool:
        return not any(np.isfinite(one.y).any() for one in self.lines)

    @cached_property
    def shown(self) -> list["Shown"]:
        """The lines that have a point, each with its colour; faint ones first, so that the others lie above."""
        filled = [one for one in self.lines if np.isfinite(one.y).any()]
        coloured = [Shown(one, i if one.colour is None else one.colour) for i, one in enumerate(filled)]
        return sorted(coloured, key=lambda shown: not shown.line.faint)

    @cached_property
    def x_axis(self) -> Axis:
        return Axis.around([float(v) for s in self.shown for v in (s.line.x.min(), s.line.x.max())], margin=0.01)

    @cached_property
    def y_axis(self) -> Axis:
        """Of all but faint lines, unless there are no others: a single step must not flatten the rest."""
        strong = [s.line for s in self.shown if not s.line.faint] or [s.line for s in self.shown]
        parts = [part for one in strong for part in (one.y, one.low, one.high) if part is not None]
        return Axis.around(np.concatenate(parts).tolist(), log=self.log)

    @property
    def summary(self) -> str:
        """What a reader hears who does not see it."""
        return "; ".join(f"{shown.line.label}: {shown.told}" for shown in self.shown if not shown.line.faint)

    @property
    def legend(self) -> list["Shown"]:
        """A line for each label, the strongest; lines of one label are hidden together. Empty for a single one."""
        found = {shown.line.label: shown for shown in self.shown}  # faint ones come first, and are overruled
        order = dict.fromkeys(one.label for one in self.lines)
        return [found[label] for label in order if label in found] if len(found) > 1 else []

    @property
    def cut(self) -> int:
        """How many points the longest line has, if not all of them are drawn."""
        longest = max((len(shown.line.x) for shown in self.shown), default=0)
        return longest if longest > POINTS else 0

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """The columns' names, and rows of some of the values."""
        steps = np.unique(np.concatenate([s.line.x[np.isfinite(s.line.y)] for s in self.shown]))
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, ROWS).round().astype(int))]
        columns = [f"{s.line.label}" for s in self.shown]
        return [self.x_name, *columns], [[number(float(x)), *(s.at(float(x)) for s in self.shown)] for x in steps]

    @property
    def data(self) -> Markup:
        """For the script, as JSON that ends no element of the page."""
        lines = [shown.data for shown in self.shown]
        told = {"log": self.log, "x": self.x_name, "lines": lines}
        text = json.dumps(told, separators=(",", ":"), allow_nan=False)
        return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@dataclass(frozen=True)
class Shown:
    """A line with its colour's number."""

    line: Line
    number: int

    @property
    def colour(self) -> int:
        return self.number % COLOURS

    @property
    def kind(self) -> str:
        words = [name for name in ("faint", "dashed", "dots") if getattr(self.line, name)]
        return " ".join([*words, "dashed"] if self.number >= COLOURS else words)

    @property
    def told(self) -> str:
        kept = np.isfinite(self.line.y)
        x, y = self.line.x[kept], self.line.y[kept]
        lowest, highest = int(y.argmin()), int(y.argmax())
        ends = f"{number(float(y[0]))} at {number(float(x[0]))}, {number(float(y[-1]))} at {number(float(x[-1]))}"
        return f"{ends}, from {number(float(y[lowest]))} to {number(float(y[highest]))}"

    def at(self, x: float) -> str:
        """The value at this place, if there is one."""
        found = np.flatnonzero(self.line.x == x)
        value = float(self.line.y[found[0]]) if len(found) else float("nan")
        return number(value) if isfinite(value) else ""

    def path(self, x_axis: Axis, y_axis: Axis) -> str:
        """Its SVG path, in per cent from the upper left corner."""
        words, lift = [], True
        for i in kept_points(self.line.y, DRAWN).tolist():
            y = float(self.line.y[i])
            if isfinite(y):
                place = max(-50.0, min(150.0, 100 - y_axis.place(y)))
                words.append(f"{'M' if lift else 'L'}{x_axis.place(float(self.line.x[i])):.4g} {place:.4g}")
            lift = not isfinite(y)
        return "".join(words)

    def marks(self, x_axis: Axis, y_axis: Axis) -> str:
        """The path of its dots, which have no length and round ends."""
        points = [(x, y) for x, y in zip(self.line.x.tolist(), self.line.y.tolist(), strict=True) if isfinite(y)]
        return "".join(f"M{x_axis.place(x):.4g} {100 - y_axis.place(y):.4g}h0" for x, y in points if self.line.dots)

    def band(self, x_axis: Axis, y_axis: Axis) -> str:
        """The path around its band; empty where it has none."""
        low, high = self.line.low, self.line.high
        if low is None or high is None:
            return ""
        kept = [i for i in kept_points(self.line.y, DRAWN).tolist() if isfinite(low[i]) and isfinite(high[i])]
        ways = [(i, float(high[i])) for i in kept] + [(i, float(low[i])) for i in reversed(kept)]
        places = [(x_axis.place(float(self.line.x[i])), max(-50.0, min(150.0, 100 - y_axis.place(v)))) for i, v in ways]
        return "M" + "L".join(f"{x:.4g} {y:.4g}" for x, y in places) + "Z" if places else ""

    @property
    def data(self) -> dict[str, object]:
        kept = kept_points(self.line.y, POINTS)
        found: dict[str, object] = {"label": line(self.line.label), "colour": self.colour, "kind": self.kind}
        found |= {"x": _plain(self.line.x[kept]), "y": _plain(self.line.y[kept])}
        if self.line.low is not None and self.line.high is not None:
            found |= {"low": _plain(self.line.low[kept]), "high": _plain(self.line.high[kept])}
        return found


@dataclass(frozen=True)
class Charts:
    """Plots side by side where there is room for them, or one as wide as the page."""

    kind: ClassVar[str] = "charts"
    plots: Sequence[Curves] = field(default_factory=list)

    @property
    def filled(self) -> list[Curves]:
        return [plot for plot in self.plots if not plot.empty]

    @property
    def empty(self) -> bool:
        return not self.filled


def kept_points(values: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Which points to draw: of each of `most` / 2 stretches the lowest and the highest, the first and the last of all."""
    count = len(values)
    if count <= most:
        return np.arange(count)
    edges = np.linspace(0, count, most // 2).astype(int)
    kept = {0, count - 1}
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = values[start:end]
        if np.isfinite(part).any():
            kept |= {start + int(np.nanargmin(_gaps(part))), start + int(np.nanargmax(_gaps(part)))}
        if not np.isfinite(part).all():
            kept.add(start + int(np.flatnonzero(~np.isfinite(part))[0]))
    return np.array(sorted(kept), dtype=np.int64)


def smooth(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The mean of the `width` values around each, fewer at the ends; what is not finite counts for nothing."""
    good = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(good)])
    places = np.arange(len(values))
    start, end = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    number_of = counts[end] - counts[start]
    return np.where(number_of > 0, (sums[end] - sums[start]) / np.maximum(number_of, 1), np.nan)


def _gaps(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _plain(values: NDArray[np.float64]) -> list[float | int | None]:
    """Five digits each; None for what is not finite."""
    rounded = [float(f"{value:.6g}") if isfinite(value) else None for value in values.tolist()]
    return [int(value) if value is not None and value == int(value) and abs(value) < 1e15 else value for value in rounded]
