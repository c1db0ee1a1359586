"""Measured numbers with their intervals, by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.progress import track
from torch import Tensor

from ldm_train.metrics.intervals import jackknife_interval
from ldm_train.metrics.sets import (
    MIN_PICTURES,
    clip_score,
    frechet_distance,
    is_rank_deficient,
    kernel_distance,
    precision_recall,
    retrieval_at_1,
)

Value = float | int | str | bool
NORMAL = 1.96  # deviations on either side of a normal distribution's mean that hold 95 % of it


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: of so many random halves, by this seed; none where there are no resamples."""

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
        """The 95 % interval of a statistic of `count` examples, within bounds; None where a half has not `least`."""
        if self.resamples == 0 or count // 2 < least:
            return None
        low, high = jackknife_interval(statistic, count, seed=self.seed, resamples=self.resamples)
        return max(low, bounds[0]), min(high, bounds[1])


@dataclass(frozen=True)
class Numbers:
    """Values by name, and the ends of the 95 % intervals of those that have one."""

    values: dict[str, Value] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, name: str, value: Value, ends: tuple[float, float] | None = None) -> None:
        self.values[name] = value
        if ends is not None:
            self.intervals[name] = ends

    def add_mean(self, name: str, each: Tensor, resampling: Resampling) -> None:
        """The mean of one number for each picture."""
        values = each.double().cpu()
        self.add(name, values.mean().item(), resampling(lambda chosen: values[chosen].mean().item(), len(values)))

    def add_share(self, name: str, each: Tensor, resampling: Resampling) -> None:
        """The share of pictures of which something holds, (M,) bool.

        With Wilson's interval (1927, Journal of the American Statistical Association 22), which has a width at 0 and 1 too,
        where resampled shares would all be alike.
        """
        share, count = each.double().mean().item(), len(each)
        middle, spread = share + NORMAL**2 / (2 * count), (share * (1 - share) / count + NORMAL**2 / (4 * count**2)) ** 0.5
        ends = [(middle + side * NORMAL * spread) / (1 + NORMAL**2 / count) for side in (-1, 1)]
        self.add(name, share, (max(0.0, ends[0]), min(1.0, ends[1])) if resampling.resamples else None)

    def __or__(self, other: "Numbers") -> "Numbers":
        return Numbers(self.values | other.values, self.intervals | other.intervals)


@dataclass(frozen=True)
class Statistic:
    """A number of two sets of features, how many pictures each needs at least, and between what it lies."""

    name: str
    of: Callable[[Tensor, Tensor], float]
    least: int
    bounds: tuple[float, float]


SHARE = (0.0, 1.0)
STATISTICS = (
    Statistic("kid", kernel_distance, 2, (-math.inf, math.inf)),
    Statistic("fid", frechet_distance, 2, (0.0, math.inf)),
    Statistic("precision", lambda real, drawn: precision_recall(real, drawn)[0], MIN_PICTURES, SHARE),
    Statistic("recall", lambda real, drawn: precision_recall(real, drawn)[1], MIN_PICTURES, SHARE),
)


def compare(real: Tensor, drawn: Tensor, resampling: Resampling, *, extractor: str) -> Numbers:
    """Distances, precision and recall of features (N, D) and (M, D); the intervals are over drawn pictures alone."""
    numbers, few = Numbers(), min(len(real), len(drawn))
    possible = [statistic for statistic in STATISTICS if few >= statistic.least]
    for statistic in track(possible, "comparing features"):
        ends = resampling(on_part(statistic, real, drawn), len(drawn), least=statistic.least, bounds=statistic.bounds)
        numbers.add(f"{statistic.name}_{extractor}", statistic.of(real, drawn), ends)
        if statistic.name == "fid":
            numbers.add(f"fid_{extractor}_rank_deficient", is_rank_deficient(real, drawn))
    if left := [statistic.name for statistic in STATISTICS if statistic not in possible]:
        print(f"{len(real)} real and {len(drawn)} drawn pictures are too few for {', '.join(left)}")
    return numbers


def on_part(statistic: Statistic, real: Tensor, drawn: Tensor) -> Callable[[Tensor], float]:
    return lambda chosen: statistic.of(real, drawn[chosen.to(drawn.device)])


def go_together(images: Tensor, texts: Tensor, resampling: Resampling, *, model: str) -> Numbers:
    """CLIP score and retrieval of pictures by their embeddings (M, D) and those of their captions (M, D)."""
    numbers = Numbers()
    numbers.add_mean(f"clip_score_{model}", clip_score(images, texts), resampling)
    numbers.add(
        f"clip_retrieval_at_1_{model}",
        retrieval_at_1(images, texts),
        resampling(lambda chosen: retrieval_at_1(images[chosen], texts[chosen]), len(images), bounds=SHARE),
    )
    return numbers
