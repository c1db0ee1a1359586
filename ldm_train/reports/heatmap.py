"""A heatmap: a value for each cell of columns and rows, as a colour on a logarithmic scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log
from typing import ClassVar

from ldm_train.reports.axes import PlotAxis, format_number
from ldm_train.util.colour_scale import mix_colour


@dataclass(frozen=True)
class Heatmap:
    """A heatmap of `values[column][row]`; cells with values that are not positive are blank.

    Args:
        columns: what each column is about, such as a step.
        edges: of the rows, ascending from the bottom, one more than there are rows.
        x_name, y_name: of the axes.
        unit: of the values.
        ends: a word for the lower and one for the upper end of the rows.
    """

    kind: ClassVar[str] = "heatmap"
    caption: str
    columns: Sequence[int]
    edges: Sequence[float]
    values: Sequence[Sequence[float]]
    x_name: str
    y_name: str
    unit: str
    ends: tuple[str, str] = ("", "")

    @property
    def empty(self) -> bool:
        return not self._positive

    @property
    def _positive(self) -> list[float]:
        return [value for column in self.values for value in column if isfinite(value) and value > 0]

    @property
    def limits(self) -> tuple[str, str]:
        """The lowest and the highest value, as texts."""
        return format_number(min(self._positive)), format_number(max(self._positive))

    @property
    def cells(self) -> list[tuple[int, float, float, str, str]]:
        """Each cell's column, top and height in per cent, colour, and description."""
        low, high = min(self._positive), max(self._positive)
        axis = PlotAxis(self.edges[0], self.edges[-1])
        return [
            (
                column,
                round(100 - axis.place(top), 3),
                round(axis.place(top) - axis.place(bottom), 3),
                mix_colour(log(value / low) / (log(high / low) or 1)),
                f"{self.x_name} {self.columns[column]:,}, {self.y_name} {format_number(bottom)} to {format_number(top)}: "
                f"{format_number(value)}",
            )
            for column, values in enumerate(self.values)
            for (bottom, top), value in zip(pairwise(self.edges), values, strict=True)
            if isfinite(value) and value > 0
        ]

    @property
    def x_ticks(self) -> list[tuple[str, str]]:
        """At most six of the columns: the middle in per cent of the width, and a text."""
        count = len(self.columns)
        every = max(1, -(-count // 6))
        return [(f"{100 * (i + 0.5) / count:.4g}", f"{self.columns[i]:,}") for i in range(0, count, every)]

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        return PlotAxis(self.edges[0], self.edges[-1]).ticks()

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """The names of the columns and the rows of a table with the same numbers: a step, then each bin."""
        names = [f"{format_number(low)} to {format_number(high)}" for low, high in pairwise(self.edges)]
        rows = [[f"{c:,}", *(format_number(value) for value in v)] for c, v in zip(self.columns, self.values, strict=True)]
        return [self.x_name, *names], rows

    @property
    def scale(self) -> str:
        """The colours from the lowest to the highest value, for a CSS gradient."""
        return ", ".join(mix_colour(i / 4) for i in range(5))
