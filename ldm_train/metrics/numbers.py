"""Named numbers with 95 % intervals."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ldm_train.metrics.intervals import jackknife_interval

Value = float | int | str | bool
NORMAL = 1.96  # standard deviations on either side of the mean that contain 95 % of a normal distribution


@dataclass(frozen=True)
class Resampling:
    """Compute intervals from `resamples` random halves of the examples; none if `resamples` is 0."""

    resamples: int
    seed: int

    def __call__(
        self,
        statistic: Callable[[Tensor], float],
        count: int,
        *,
        least: int = 1,
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> tuple[float, float] | None:
        """Return the 95 % interval of a statistic of `count` examples, within bounds.

        Args:
            statistic: computed from the indices of the chosen examples.
            least: the fewest examples that the statistic needs; if a half has fewer, return None.
        """
        if self.resamples == 0 or count // 2 < least:
            return None
        low, high = jackknife_interval(statistic, count, seed=self.seed, resamples=self.resamples)
        return max(low, bounds[0]), min(high, bounds[1])


@dataclass(frozen=True)
class Numbers:
    """Values by name, and the ends of their 95 % intervals if they have one."""

    values: dict[str, Value] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, name: str, value: Value, ends: tuple[float, float] | None = None) -> None:
        self.values[name] = value
        if ends is not None:
            self.intervals[name] = ends

    def add_mean(self, name: str, each: Tensor, resampling: Resampling) -> None:
        """Add the mean of one number per picture, (M,), with its interval."""
        values = each.double().cpu()
        self.add(name, values.mean().item(), resampling(lambda chosen: values[chosen].mean().item(), len(values)))

    def add_share(self, name: str, each: Tensor, resampling: Resampling) -> None:
        """Add the share of pictures for which a property is true, (M,) bool, with its interval.

        The interval is Wilson's (1927, Journal of the American Statistical Association 22): it has a width at shares of 0
        and 1 too, where all resampled shares would be equal.
        """
        share, count = each.double().mean().item(), len(each)
        middle, spread = share + NORMAL**2 / (2 * count), (share * (1 - share) / count + NORMAL**2 / (4 * count**2)) ** 0.5
        ends = [(middle + side * NORMAL * spread) / (1 + NORMAL**2 / count) for side in (-1, 1)]
        self.add(name, share, (max(0.0, ends[0]), min(1.0, ends[1])) if resampling.resamples else None)

    def rename(self, name: Callable[[str], str]) -> "Numbers":
        """Return the same numbers under other names, without flags."""
        values = {name(key): value for key, value in self.values.items() if not isinstance(value, bool)}
        return Numbers(values, {name(key): ends for key, ends in self.intervals.items()})

    def __or__(self, other: "Numbers") -> "Numbers":
        return Numbers(self.values | other.values, self.intervals | other.intervals)
