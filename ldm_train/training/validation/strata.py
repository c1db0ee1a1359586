"""Bins of log-SNR, and means over them with confidence intervals.

The training's distribution over t is cut at log-SNRs into K bins with shares p_k. Every bin gets the same number of draws,
so that all noise levels are measured with the same precision; sum_k p_k mean_k estimates the expectation over the
training's t.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.diffusion.timesteps import Timesteps

GRID = 4096  # quantiles from which the bins' shares are estimated
Z_95 = 1.96  # 95 % of a normal distribution lie within so many standard deviations of its mean
STRIDES = (0.6180339887498949, 0.7548776662466927)  # from the golden and the plastic number: multiples spread evenly


@dataclass(frozen=True)
class Strata:
    """Bins of log-SNR.

    Args:
        edges: log-SNRs, (K + 1,) float64, rising; the outer ones are the ends of the training's distribution, where finite.
        quantiles: the share of the training's draws that are less noisy than each edge, (K + 1,), falling from 1 to 0.
    """

    edges: Tensor
    quantiles: Tensor

    @classmethod
    def of(cls, timesteps: Timesteps, schedule: NoiseSchedule, *, bins: int) -> "Strata":
        """Return at most `bins` bins of equal width from the 1st to the 99th percentile, the outer two extended to the ends.

        Bins without any t, which a schedule of few steps has, are merged into a neighbour.
        """
        u = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
        log_snr = schedule.log_snr(timesteps.t_at_shares(u, schedule))
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
        """The share of the training's draws in each bin, (K,)."""
        return self.quantiles[:-1] - self.quantiles[1:]

    def assign(self, indices: Tensor, repeats: int) -> tuple[Tensor, Tensor]:
        """Return the bins of examples (N,), each drawn `repeats` times, and the quantiles to draw, both (N, repeats).

        The quantiles are those of the training's distribution. In each repeat all bins get the same number of examples, to
        within one, and their quantiles spread evenly over the bin.
        """
        count, repeat = len(self.shares), torch.arange(repeats)
        bins = (indices[:, None] + repeat * count // repeats) % count
        within = (indices[:, None].double() * STRIDES[0] + repeat.double() * STRIDES[1] + 0.5) % 1
        return bins, self.quantiles[bins + 1] + within * self.shares[bins]


@dataclass(frozen=True)
class ConfidenceInterval:
    """A mean and the ends of its 95 % confidence interval; the ends are None if there are fewer than two examples."""

    mean: float
    low: float | None
    high: float | None


def compute_stratified_means(
    values: Tensor, bins: Tensor, shares: Tensor
) -> tuple[ConfidenceInterval, list[ConfidenceInterval]]:
    """Return the mean over the training's t, and the mean of each bin, of values (N, R) float64 in bins (N, R).

    The N examples are independent, but not an example's R values, so the variance is taken between examples: with residuals
    e and weights w it is N / (N - 1) sum_i (sum_r w_ir e_ir)^2 (cluster-robust; Liang and Zeger 1986, eq. 3).

    Args:
        shares: of the training's draws in each bin, (K,).
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


def _interval(mean: Tensor, contributions: Tensor) -> ConfidenceInterval:
    """Return the interval of a mean to which the examples contribute residuals (N, R)."""
    count = len(contributions)
    if count < 2:
        return ConfidenceInterval(mean.item(), None, None)
    half = Z_95 * (count / (count - 1) * contributions.sum(1).square().sum()).sqrt()
    return ConfidenceInterval(mean.item(), (mean - half).item(), (mean + half).item())
