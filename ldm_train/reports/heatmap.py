"""A heatmap: a value for each cell of columns and rows, as a colour on a logarithmic scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ldm_train.reports.axes import PlotAxis, format_number

# Viridis: from dark violet to yellow, perceptually uniform, also in grey.
COLOUR_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


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


def colour_shares(shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the colours (3, H, W) of shares (H, W) from 0, the darkest, to 1."""
    places = np.linspace(0, 1, len(COLOUR_STOPS))
    channels = [np.interp(shares, places, [stop[channel] for stop in COLOUR_STOPS]) for channel in range(3)]
    return np.stack(channels).round().astype(np.uint8)


def mix_colour(share: float) -> str:
    """Return the CSS colour of a share from 0, the darkest, to 1."""
    place = max(0.0, min(1.0, share)) * (len(COLOUR_STOPS) - 1)
    first = min(int(place), len(COLOUR_STOPS) - 2)
    mixed = [round(a + (b - a) * (place - first)) for a, b in zip(COLOUR_STOPS[first], COLOUR_STOPS[first + 1], strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)
