"""Confidence intervals for any statistic of a set, from its values on random halves of the set."""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm_train import draws


def jackknife_interval(
    statistic: Callable[[Tensor], float], count: int, *, seed: int, resamples: int = 200, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval (low, high) around the statistic of a set that holds it with probability `level`.

    The statistic's values on random halves, drawn without replacement, scatter as it does on independent sets of the whole
    size (the delete-half jackknife, Shao & Wu 1989, Annals of Statistics 17(3)). A bootstrap sample would contain examples
    twice, which biases distances between sets; a half does not. The bias of a smaller set is removed by centring the values
    on the statistic of the whole set.

    Args:
        statistic: maps indices of examples (n,) int64 to a number.
        count: number of examples.
        seed: seed of the random halves.

    Raises:
        ValueError: fewer than two examples or resamples, or a level outside (0, 1).
    """
    if count < 2 or resamples < 2 or not 0 < level < 1:
        raise ValueError(
            f"no confidence interval for count={count}, resamples={resamples}, level={level}: it takes at least two "
            "examples, at least two resamples, and a level between 0 and 1"
        )
    half = count // 2
    orders = (torch.randperm(count, generator=draws.generator(seed, "halves", number)) for number in range(resamples))
    values = torch.tensor([statistic(order[:half].sort().values) for order in orders], dtype=torch.float64)
    # The half of an odd number of examples is smaller than count / 2; this corrects its larger scatter.
    spread = (values - values.mean()) * (half / (count - half)) ** 0.5
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = (statistic(torch.arange(count)) + torch.quantile(spread, tails)).tolist()
    return low, high
