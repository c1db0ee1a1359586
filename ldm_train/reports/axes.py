"""Axes of plots: scales, ticks at round values, and the format of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10


@dataclass(frozen=True)
class PlotAxis:
    """An axis from `low` to `high`, logarithmic if `log`; positions on it are in per cent from its low end.

    `page.js` draws the same axes: change both.
    """

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], *, log: bool = False, margin: float = 0.05) -> "PlotAxis":
        """Return an axis that contains these values and a margin; a logarithmic one contains only the positive values."""
        kept = [value for value in values if isfinite(value) and (value > 0 or not log)] or ([1.0] if log else [0.0, 1.0])
        low, high = min(kept), max(kept)
        if log:
            span = log10(high / low) or 0.2
            return cls(low * 10 ** (-margin * span), high * 10 ** (margin * span), log=True)
        span = high - low or abs(high) or 1.0
        return cls(low - margin * span, high + margin * span)

    def place(self, value: float) -> float:
        """Return the position of a value in per cent; values that a logarithmic axis cannot show are at its low end."""
        if self.log:
            return 100 * log10(max(value, self.low) / self.low) / log10(self.high / self.low)
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Return about `count` ticks: their positions in per cent, and texts."""
        return [(round(self.place(value), 2), format_number(value)) for value in self._round(count)]

    def _round(self, count: int) -> list[float]:
        if self.log and self.high / self.low > 8:
            first, last = floor(log10(self.low)), ceil(log10(self.high))
            every = max(1, ceil((last - first) / count))
            factors = (1,) if last - first > 3 else (1, 2, 5) if last - first > 1 else (1, 2, 3, 5)
            values = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
        else:
            step = _step((self.high - self.low) / count)
            values = [i * step for i in range(ceil(self.low / step), floor(self.high / step) + 1)]
        return [value for value in values if self.low <= value <= self.high]


def format_number(value: float) -> str:
    """Return a number with at most four digits; `page.js` formats in the same way, so change both."""
    if not isfinite(value):
        return str(value)
    size = abs(value)
    if value == int(value) and size < 1e6:
        return f"{int(value):,}"
    if size >= 1e6 or size < 1e-4:
        mantissa, _, power = f"{value:.3g}".partition("e") if size < 1e-4 else f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(power)}" if power else mantissa
    return f"{value:,.4g}" if size < 1000 else f"{value:,.0f}"


def _step(least: float) -> float:
    power = 10.0 ** floor(log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
