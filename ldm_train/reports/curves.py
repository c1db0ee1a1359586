"""Plots of curves over steps. The page draws them; its script adds zooming, the choice of a scale, and hiding of lines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import ClassVar

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ldm_train.reports.axes import PlotAxis, format_number
from ldm_train.reports.safe_text import fit_line

MAX_POINTS = 800  # of a line
POINTS_WITHOUT_SCRIPT = 250  # of the line that is drawn before the script runs
NUM_COLOURS = 8
TABLE_ROWS = 12  # of the table with the same values


@dataclass(frozen=True)
class CurveLine:
    """One curve; values that are not finite leave gaps.

    Args:
        low, high: the edges of a band around it, with as many values.
        colour: its number among the page's colours; None for the next one.
        faint: whether it is drawn in the background, such as values that another line smooths.
        dashed: whether it is dashed, such as one that is compared with a solid line of the same colour.
        dots: whether each value is marked, for lines with few values.
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

    @property
    def is_dotted(self) -> bool:
        """Whether each value is marked: as asked for, or because one has no neighbour and so no stroke would show it."""
        known = np.isfinite(self.y)
        joined = np.append(known[1:], False) | np.insert(known[:-1], 0, False)
        return self.dots or bool((known & ~joined).any())


@dataclass(frozen=True)
class Curves:
    """Lines in one plot, with a legend.

    Args:
        log: whether the vertical axis is logarithmic before people choose.
        x_name: of the horizontal axis; plots with the same name are zoomed together.
        note: text below the title.
    """

    title: str
    lines: Sequence[CurveLine]
    log: bool = False
    x_name: str = "step"
    unit: str = ""
    note: str = ""

    @property
    def empty(self) -> bool:
        return not any(np.isfinite(one.y).any() for one in self.lines)

    @cached_property
    def coloured_lines(self) -> list["ColouredLine"]:
        """The lines that have a point, with their colours; faint ones first, so that the others are drawn above them."""
        filled = [one for one in self.lines if np.isfinite(one.y).any()]
        coloured = [ColouredLine(one, i if one.colour is None else one.colour) for i, one in enumerate(filled)]
        return sorted(coloured, key=lambda one: not one.line.faint)

    @cached_property
    def x_axis(self) -> PlotAxis:
        return PlotAxis.around(
            [float(v) for s in self.coloured_lines for v in (s.line.x.min(), s.line.x.max())], margin=0.01
        )

    @cached_property
    def y_axis(self) -> PlotAxis:
        """The axis of all lines except faint ones, unless all are faint: an outlier must not flatten the other values."""
        strong = [s.line for s in self.coloured_lines if not s.line.faint] or [s.line for s in self.coloured_lines]
        parts = [part for one in strong for part in (one.y, one.low, one.high) if part is not None]
        return PlotAxis.around(np.concatenate(parts).tolist(), log=self.log)

    @property
    def summary(self) -> str:
        """A description for screen readers."""
        return "; ".join(f"{one.line.label}: {one.summary}" for one in self.coloured_lines if not one.line.faint)

    @property
    def legend(self) -> list["ColouredLine"]:
        """One line for each label, if there are several labels; lines with the same label are hidden together."""
        found = {one.line.label: one for one in self.coloured_lines}  # faint lines come first, so others replace them
        order = dict.fromkeys(one.label for one in self.lines)
        return [found[label] for label in order if label in found] if len(found) > 1 else []

    @property
    def cut(self) -> int:
        """How many points the longest line has, if not all of them are drawn, else 0."""
        longest = max((len(one.line.x) for one in self.coloured_lines), default=0)
        return longest if longest > MAX_POINTS else 0

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """The names of the columns, and rows with some of the values."""
        steps = np.unique(np.concatenate([s.line.x[np.isfinite(s.line.y)] for s in self.coloured_lines]))
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, TABLE_ROWS).round().astype(int))]
        columns = [f"{s.line.label}" for s in self.coloured_lines]
        return [self.x_name, *columns], [
            [format_number(float(x)), *(s.at(float(x)) for s in self.coloured_lines)] for x in steps
        ]

    @property
    def data(self) -> Markup:
        """The lines as JSON for the script, escaped so that it cannot end an HTML element."""
        lines = [one.data for one in self.coloured_lines]
        content = {"log": self.log, "x": self.x_name, "lines": lines}
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@dataclass(frozen=True)
class ColouredLine:
    """A line with the number of its colour."""

    line: CurveLine
    number: int

    @property
    def colour(self) -> int:
        return self.number % NUM_COLOURS

    @property
    def kind(self) -> str:
        marks = {"faint": self.line.faint, "dashed": self.line.dashed, "dots": self.line.is_dotted}
        words = [name for name, is_set in marks.items() if is_set]
        return " ".join([*words, "dashed"] if self.number >= NUM_COLOURS else words)

    @property
    def summary(self) -> str:
        """The first, last, lowest and highest value, as a text."""
        kept = np.isfinite(self.line.y)
        x, y = self.line.x[kept], self.line.y[kept]
        lowest, highest = int(y.argmin()), int(y.argmax())
        first, last = (f"{format_number(float(y[i]))} at {format_number(float(x[i]))}" for i in (0, -1))
        return f"{first}, {last}, from {format_number(float(y[lowest]))} to {format_number(float(y[highest]))}"

    def at(self, x: float) -> str:
        """Return the value at this x as a text, empty if there is none."""
        found = np.flatnonzero(self.line.x == x)
        value = float(self.line.y[found[0]]) if len(found) else float("nan")
        return format_number(value) if isfinite(value) else ""

    def path(self, x_axis: PlotAxis, y_axis: PlotAxis) -> str:
        """Return the SVG path of the line, in per cent from the upper left corner."""
        words, lift = [], True
        for i in choose_points(self.line.y, POINTS_WITHOUT_SCRIPT).tolist():
            y = float(self.line.y[i])
            if isfinite(y):
                place = max(-50.0, min(150.0, 100 - y_axis.place(y)))
                words.append(f"{'M' if lift else 'L'}{x_axis.place(float(self.line.x[i])):.4g} {place:.4g}")
            lift = not isfinite(y)
        return "".join(words)

    def marks(self, x_axis: PlotAxis, y_axis: PlotAxis) -> str:
        """Return the SVG path of the dots: strokes of length 0 with round ends."""
        points = [(x, y) for x, y in zip(self.line.x.tolist(), self.line.y.tolist(), strict=True) if isfinite(y)]
        return "".join(f"M{x_axis.place(x):.4g} {100 - y_axis.place(y):.4g}h0" for x, y in points if self.line.is_dotted)

    def band(self, x_axis: PlotAxis, y_axis: PlotAxis) -> str:
        """Return the SVG path around the band, empty if there is none."""
        low, high = self.line.low, self.line.high
        if low is None or high is None:
            return ""
        kept = [
            i for i in choose_points(self.line.y, POINTS_WITHOUT_SCRIPT).tolist() if isfinite(low[i]) and isfinite(high[i])
        ]
        ways = [(i, float(high[i])) for i in kept] + [(i, float(low[i])) for i in reversed(kept)]
        places = [(x_axis.place(float(self.line.x[i])), max(-50.0, min(150.0, 100 - y_axis.place(v)))) for i, v in ways]
        return "M" + "L".join(f"{x:.4g} {y:.4g}" for x, y in places) + "Z" if places else ""

    @property
    def data(self) -> dict[str, object]:
        kept = choose_points(self.line.y, MAX_POINTS)
        found: dict[str, object] = {"label": fit_line(self.line.label), "colour": self.colour, "kind": self.kind}
        found |= {"x": _plain(self.line.x[kept]), "y": _plain(self.line.y[kept])}
        if self.line.low is not None and self.line.high is not None:
            found |= {"low": _plain(self.line.low[kept]), "high": _plain(self.line.high[kept])}
        return found


@dataclass(frozen=True)
class Charts:
    """Plots, in columns if the page is wide enough; a single one is as wide as the page."""

    kind: ClassVar[str] = "charts"
    plots: Sequence[Curves] = field(default_factory=list)

    @property
    def filled(self) -> list[Curves]:
        return [plot for plot in self.plots if not plot.empty]

    @property
    def empty(self) -> bool:
        return not self.filled


def choose_points(values: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Return the indices of about `most` points to draw: the lowest and highest of each stretch, the first and the last."""
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


def smooth_values(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return a moving average over `width` values, fewer at the ends; values that are not finite are left out."""
    good = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(good)])
    places = np.arange(len(values))
    start, end = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    num_values = counts[end] - counts[start]
    return np.where(num_values > 0, (sums[end] - sums[start]) / np.maximum(num_values, 1), np.nan)


def _gaps(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _plain(values: NDArray[np.float64]) -> list[float | int | None]:
    """Return values with six digits for JSON; None for one that is not finite."""
    rounded = [float(f"{value:.6g}") if isfinite(value) else None for value in values.tolist()]
    return [int(value) if value is not None and value == int(value) and abs(value) < 1e15 else value for value in rounded]
