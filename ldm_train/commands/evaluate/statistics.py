"""The statistics that compare features of pictures."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from rich.progress import track
from torch import Tensor

from ldm_train.metrics.numbers import Numbers, Resampling
from ldm_train.metrics.sets import (
    MIN_PICTURES,
    caution_of_few,
    clip_score,
    frechet_distance,
    is_rank_deficient,
    kernel_distance,
    nearest_distances,
    precision_recall,
    retrieval_at_1,
)


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
NEAREST = "nearest_trained_ratio"
COPIES, STRANGE = 0.8, 1.25  # ratios that are taken for copies, and for pictures unlike the set
STATISTICS = (
    Statistic("kid", kernel_distance, 2, (-math.inf, math.inf)),
    Statistic("fid", frechet_distance, 2, (0.0, math.inf)),
    Statistic("precision", lambda real, drawn: precision_recall(real, drawn)[0], MIN_PICTURES, SHARE),
    Statistic("recall", lambda real, drawn: precision_recall(real, drawn)[1], MIN_PICTURES, SHARE),
)


def compare_with_real(
    real: Tensor, drawn: Tensor, resampling: Resampling, *, extractor: str, cautions: bool = True
) -> Numbers:
    """Return distances, precision and recall of real (N, D) and drawn (M, D) features.

    The intervals resample the drawn pictures only. Statistics that need more pictures are left out.

    Args:
        cautions: whether to print what is left out, and what not to conclude from few pictures.
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
        if cautions:
            print(f"caution: {caution}")
    left = [statistic.name for statistic in STATISTICS if statistic not in possible]
    if left and cautions:
        print(f"{len(real)} real and {len(drawn)} drawn pictures are too few to compute {', '.join(left)}")
    return numbers


def compare_with_trained(
    drawn: Tensor, unseen: Tensor, trained: Tensor, resampling: Resampling, *, extractor: str
) -> Numbers:
    """Return how far drawn pictures (M, D) are from the nearest trained one (L, D), relative to unseen true ones (N, D).

    The ratio of the mean distances is 0 for copies of trained pictures, and about 1 for pictures as new as the unseen ones.
    """
    numbers, each, unit = Numbers(), nearest_distances(drawn, trained), nearest_distances(unseen, trained).mean().item()
    if unit > 0:
        ends = resampling(lambda chosen: each[chosen].mean().item() / unit, len(each), bounds=(0.0, math.inf))
        numbers.add(f"{NEAREST}_{extractor}", each.mean().item() / unit, ends)
    return numbers


def describe_copying(ratio: float) -> str:
    """Return what a ratio of `compare_with_trained` for held-out captions means, in one sentence."""
    if ratio < COPIES:
        return f"{ratio:.2f}: nearer to trained pictures than new pictures are, so the model repeats trained pictures"
    if ratio > STRANGE:
        return f"{ratio:.2f}: farther from trained pictures than new pictures are, so they do not look like the set yet"
    return f"{ratio:.2f}: as far from trained pictures as new pictures are, so there is no sign of copying"


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
