"""Named numbers with 95 % intervals, and the statistics that compare features of pictures."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.progress import track
from torch import Tensor

from ldm_train.metrics.intervals import jackknife_interval
from ldm_train.metrics.sets import (
    MIN_PICTURES,
    caution_of_few,
    clip_score,
    frechet_distance,
    is_rank_deficient,
    kernel_distance,
    precision_recall,
    retrieval_at_1,
)

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

    def __or__(self, other: "Numbers") -> "Numbers":
        return Numbers(self.values | other.values, self.intervals | other.intervals)


@dataclass(frozen=True)
class Statistic:
    """A function of the features of two sets of pictures.

    Args:
        of: computes it from real features (N, D) and drawn features (M, D).
        least: the fewest pictures that each set needs.
        bounds: its smallest and largest possible value.
    """

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


def compare_features(real: Tensor, drawn: Tensor, resampling: Resampling, *, extractor: str) -> Numbers:
    """Return distances, precision and recall of real (N, D) and drawn (M, D) features.

    The intervals resample the drawn pictures only. Statistics that need more pictures are left out, with a printed note.
    """
    numbers, few = Numbers(), min(len(real), len(drawn))
    possible = [statistic for statistic in STATISTICS if few >= statistic.least]
    for statistic in track(possible, "comparing features"):
        ends = resampling(restrict_drawn(statistic, real, drawn), len(drawn), least=statistic.least, bounds=statistic.bounds)
        numbers.add(f"{statistic.name}_{extractor}", statistic.of(real, drawn), ends)
        if statistic.name == "fid":
            numbers.add(f"fid_{extractor}_rank_deficient", is_rank_deficient(real, drawn))
    if (caution := caution_of_few(len(real), len(drawn))) is not None:
        numbers.add("few_pictures", True)
        print(f"caution: {caution}")
    if left := [statistic.name for statistic in STATISTICS if statistic not in possible]:
        print(f"{len(real)} real and {len(drawn)} drawn pictures are too few to compute {', '.join(left)}")
    return numbers


def restrict_drawn(statistic: Statistic, real: Tensor, drawn: Tensor) -> Callable[[Tensor], float]:
    """Return the statistic as a function of the indices of the drawn pictures to use."""
    return lambda chosen: statistic.of(real, drawn[chosen.to(drawn.device)])


def compare_with_captions(images: Tensor, texts: Tensor, resampling: Resampling, *, model: str) -> Numbers:
    """Return the CLIP score and retrieval from embeddings of pictures (M, D) and of their captions (M, D)."""
    numbers = Numbers()
    numbers.add_mean(f"clip_score_{model}", clip_score(images, texts), resampling)
    numbers.add(
        f"clip_retrieval_at_1_{model}",
        retrieval_at_1(images, texts),
        resampling(lambda chosen: retrieval_at_1(images[chosen], texts[chosen]), len(images), bounds=SHARE),
    )
    return numbers
