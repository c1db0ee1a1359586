"""Confidence intervals of any statistic of a set, by measuring random halves of the set."""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm_train import draws


def interval(
    statistic: Callable[[Tensor], float], count: int, *, seed: int, resamples: int = 200, level: float = 0.95
) -> tuple[float, float]:
    """Where the statistic of another set of `count` examples would lie, (low, high).

    The statistic's values on random halves without repetition scatter about as it does on independent sets of the whole
    size (the delete-half jackknife, Shao & Wu 1989, Annals of Statistics 17(3)). Unlike the bootstrap's samples, a half has
    no example twice, which would pull a distance between sets off; what a smaller set alone changes is taken out by centring
    the values on the statistic of the whole.

    Args:
        statistic: of examples by index, (n,) int64.
        seed: of the halves, which depend on nothing else.
        level: the share of such sets within.

    Raises:
        ValueError: fewer than two examples, no resamples, or a level that is no share.
    """
    if count < 2 or resamples < 2 or not 0 < level < 1:
        raise ValueError(
            f"an interval from count={count}, resamples={resamples}, level={level} is not to be had: "
            "it takes at least two examples, at least two resamples, and a level between 0 and 1"
        )
    half = count // 2
    orders = (torch.randperm(count, generator=draws.generator(seed, "halves", number)) for number in range(resamples))
    values = torch.tensor([statistic(order[:half].sort().values) for order in orders], dtype=torch.float64)
    # Of an odd number of examples a half is less than a half, and scatters by this much more than the whole.
    spread = (values - values.mean()) * (half / (count - half)) ** 0.5
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = (statistic(torch.arange(count)) + torch.quantile(spread, tails)).tolist()
    return low, high
