"""Bar charts and histograms, which the page draws without a script."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Bars:
    """Bars for rows of (label, value, text); the value, finite and at least 0, is the bar's length."""

    kind: ClassVar[str] = "bars"
    rows: Sequence[tuple[str, float, str]]
    unit: str = ""
    max_rows: int = 20
    max_folded: int = 1000

    def __post_init__(self) -> None:
        for label, value, _ in self.rows:
            if not (isfinite(value) and value >= 0):
                raise ValueError(f"the bar {label!r} has the value {value}; expected a finite value of at least 0")

    @property
    def empty(self) -> bool:
        return not self.rows

    @property
    def drawn(self) -> list[tuple[str, str, str]]:
        """Each bar's label, length in per cent of the longest one, and text."""
        top = max(value for _, value, _ in self.rows) or 1
        return [(label, f"{max(100 * (value / top), 0.5) if value else 0:.4g}", text) for label, value, text in self.rows]


@dataclass(frozen=True)
class Histogram:
    """A histogram: `counts[i]` values lie from `edges[i]` up to `edges[i + 1]`.

    Args:
        left_out: number of values that are not finite.
    """

    kind: ClassVar[str] = "histogram"
    counts: Sequence[int]
    edges: Sequence[float]
    unit: str = ""
    caption: str = ""
    left_out: int = 0

    def __post_init__(self) -> None:
        assert len(self.edges) == len(self.counts) + 1, f"{len(self.counts)} bins have {len(self.edges)} edges"

    @classmethod
    def of(cls, values: Iterable[float], *, max_bins: int = 30, unit: str = "", caption: str = "") -> "Histogram":
        """Return the histogram of values in bins with round edges; values that are not finite are only counted."""
        counts, edges, left_out = _binned(values, max_bins)
        return cls(counts, edges, unit=unit, caption=caption, left_out=left_out)

    @property
    def empty(self) -> bool:
        return not any(self.counts) and not self.left_out

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """The same as a table: each bin's lower edge, upper edge and count."""
        texts = [f"{edge:,.10g}" for edge in self.edges]
        return [(low, high, f"{count:,}") for low, high, count in zip(texts[:-1], texts[1:], self.counts, strict=True)]

    @property
    def heights(self) -> list[float]:
        """The bars' heights in per cent of the highest; a count above 0 stays visible."""
        top = max(self.counts, default=0) or 1
        return [round(max(100 * count / top, 2), 2) if count else 0 for count in self.counts]

    @property
    def ticks(self) -> list[tuple[str, str]]:
        """At most six of the edges: their position in per cent of the width, and a text."""
        bins = len(self.counts)
        chosen = range(0, bins + 1, ceil(bins / 5)) if bins else range(0)
        return [(f"{100 * i / bins:.4g}", f"{self.edges[i]:,.10g}") for i in chosen]


def _binned(values: Iterable[float], max_bins: int) -> tuple[list[int], list[float], int]:
    """Return counts, edges, and how many values are not finite.

    There are about `max_bins` bins or fewer, with whole edges if all values are whole numbers.
    """
    everything = np.asarray(list(values), dtype=np.float64)
    finite = everything[np.isfinite(everything)]
    left_out = len(everything) - len(finite)
    if not len(finite):
        return [], [0.0], left_out
    width = _width(finite, max_bins)
    places = np.floor(finite / width)  # by the bin's number, since comparing with rounded edges could lose a value
    first = places.min()
    counts = np.bincount((places - first).astype(np.int64))
    return counts.tolist(), [float((first + i) * width) for i in range(len(counts) + 1)], left_out


def _width(values: np.ndarray, max_bins: int) -> float:
    """Return a bin width of 1, 2 or 5 times a power of ten; if all values equal one fraction, about a tenth of it."""
    low, high = float(values.min()), float(values.max())
    whole = bool((values == np.floor(values)).all())
    spread = high / max_bins - low / max_bins if high > low else abs(high) / 10
    least = max(spread, 1.0 if whole else 1e-300) if high > low or not whole else 1.0
    power = 10.0 ** floor(log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
