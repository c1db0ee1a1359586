"""Levels of noise alike: bins of log-SNR, and means over them with confidence intervals.

The training's distribution over t is cut at log-SNRs into K bins, of shares p_k. Where each bin has as many draws as the
others, sum_k p_k mean_k is the expectation over the training's own t, and every level of noise is measured alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.diffusion.timesteps import Timesteps

GRID = 4096  # quantiles by which the bins' shares are found
NORMAL = 1.96  # standard deviations on either side of a normal distribution's mean that hold 95 % of it
STRIDES = (
    0.6180339887498949,
    0.7548776662466927,
)  # of the golden and the plastic number: multiples spread evenly


@dataclass(frozen=True)
class Strata:
    """Bins of log-SNR.

    Args:
        edges: log-SNRs, (K + 1,) float64, rising; the outer ones are the training distribution's own, where finite.
        quantiles: the shares of the training's draws that are less noisy than each edge, (K + 1,), falling from 1 to 0.
    """

    edges: Tensor
    quantiles: Tensor

    @classmethod
    def of(cls, timesteps: Timesteps, schedule: NoiseSchedule, *, bins: int) -> "Strata":
        """At most `bins` of them: of equal width from the 1st to the 99th percentile, the outer two open.

        Those in which no t lies, as of a schedule with few of them, become part of a neighbour.
        """
        u = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
        log_snr = schedule.log_snr(timesteps.at(u, schedule))
        finite = log_snr[log_snr.isfinite()]
        low, high = torch.quantile(finite, torch.tensor([0.01, 0.99], dtype=torch.float64))
        edges, quantiles = [finite.min()], [torch.ones((), dtype=torch.float64)]
        for edge in low + (high - low) * torch.arange(1, bins, dtype=torch.float64) / bins:
            less_noisy = (log_snr >= edge).double().mean()
            if 0 < less_noisy < quantiles[-1]:
                edges.append(edge)
                quantiles.append(less_noisy)
        return cls(torch.stack([*edges, finite.max()]), torch.stack([*quantiles, torch.zeros((), dtype=torch.float64)]))

    @property
    def shares(self) -> Tensor:
        """Of the training's draws in each bin, (K,)."""
        return self.quantiles[:-1] - self.quantiles[1:]

    def assign(self, indices: Tensor, repeats: int) -> tuple[Tensor, Tensor]:
        """The bins of examples (N,), each drawn `repeats` times, and the training's quantiles at which: both (N, repeats).

        Every bin has its share of examples to within one for each repeat, and its quantiles are spread evenly over it.
        """
        count, repeat = len(self.shares), torch.arange(repeats)
        bins = (indices[:, None] + repeat * count // repeats) % count
        within = (indices[:, None].double() * STRIDES[0] + repeat.double() * STRIDES[1] + 0.5) % 1
        return bins, self.quantiles[bins + 1] + within * self.shares[bins]


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % confidence interval, which None stands for where one example cannot tell."""

    mean: float
    low: float | None
    high: float | None


def stratified(values: Tensor, bins: Tensor, shares: Tensor) -> tuple[Interval, list[Interval]]:
    """The mean over the training's t, and that of each bin, of values (N, R) float64 of N examples in bins (N, R).

    An example's own values go together, so the variance is that between examples: with residuals e and weights w,
    N / (N - 1) sum_i (sum_r w_ir e_ir)^2 (the cluster-robust variance, Liang, Zeger 1986, eq. 3).
    """
    counts = bins.flatten().bincount(minlength=len(shares)).double()
    means = torch.zeros_like(shares).index_add(0, bins.flatten(), values.flatten()) / counts
    residuals = values - means[bins]
    total = _interval((shares * means).sum(), (shares / counts)[bins] * residuals)
    each = []
    for k, (mean, count) in enumerate(zip(means, counts, strict=True)):
        inside = bins == k
        each.append(_interval(mean, (inside * residuals / count)[inside.any(1)]))
    return total, each


def _interval(mean: Tensor, contributions: Tensor) -> Interval:
    """Of a mean whose examples contribute residuals (N, R) to it."""
    count = len(contributions)
    if count < 2:
        return Interval(mean.item(), None, None)
    half = NORMAL * (count / (count - 1) * contributions.sum(1).square().sum()).sqrt()
    return Interval(mean.item(), (mean - half).item(), (mean + half).item())
