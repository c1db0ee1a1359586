"""Which t to train on: a distribution over a schedule's t, drawn by the example's position in the run.

All t are float64, in the schedule's own units (1 to T, 0 to 1, or sigma).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.diffusion.schedules.schedule import NoiseSchedule


class Timesteps(ABC):
    """A distribution over t, given by its quantile function.

    Args:
        stratified: draw one number per global batch and shift it by k / batch_size for the k-th example, so that a batch
            covers the distribution evenly (Kingma et al. 2021, arXiv 2107.00630, appendix I.1): same expectation, less
            variance. The run's order shuffles which example gets which stratum. False: each example draws its own number.
        quantiles: the part of the distribution to draw from, [0, 1] for all of it; [0.5, 1] trains on the noisier half only.

    Raises:
        ValueError: quantiles that are not two rising numbers from 0 to 1.
    """

    def __init__(self, *, stratified: bool = True, quantiles: Sequence[float] = (0.0, 1.0)) -> None:
        self.stratified = stratified
        if len(quantiles) != 2 or not 0 <= quantiles[0] < quantiles[1] <= 1:
            raise ValueError(f"timesteps.quantiles={list(quantiles)} must be two rising numbers from 0 to 1")
        self.quantiles = quantiles

    @abstractmethod
    def t_at_quantiles(self, quantiles: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the t (B,) below which shares (B,) in [0, 1) of the draws lie."""

    def __call__(self, positions: Tensor, *, schedule: NoiseSchedule, seed: int, batch_size: int) -> Tensor:
        """Return t (B,) float64 on the CPU for positions (B,) of a run whose global batch is `batch_size`."""
        if not self.stratified:
            return self.t_at_shares(draws.uniform(seed, "timestep", positions).double(), schedule)
        steps, slots = positions // batch_size, positions % batch_size
        offsets = {step: draws.uniform(seed, "timestep", torch.tensor([step]))[0].item() for step in steps.unique().tolist()}
        start = torch.tensor([offsets[step] for step in steps.tolist()], dtype=torch.float64)
        return self.t_at_shares((start + slots.cpu().double() / batch_size) % 1, schedule)

    def t_at_shares(self, shares: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the t (B,) at shares (B,) of what training draws: the part of the distribution between the quantiles."""
        low, high = self.quantiles
        return self.t_at_quantiles(low + (high - low) * shares, schedule)


class Uniform(Timesteps):
    """Uniform over the schedule's t (Ho et al. 2020, arXiv 2006.11239, algorithm 1)."""

    def t_at_quantiles(self, quantiles: Tensor, schedule: NoiseSchedule) -> Tensor:
        return schedule.quantile(quantiles)


class LogitNormal(Timesteps):
    """t / end = 1 / (1 + exp(-N(mean, std^2))): more of the middle (Esser et al. 2024, arXiv 2403.03206, eq. 19).

    To be exact, (t - start) / (end - start) has this distribution.
    """

    def __init__(
        self, *, mean: float = 0.0, std: float = 1.0, stratified: bool = True, quantiles: Sequence[float] = (0.0, 1.0)
    ) -> None:
        super().__init__(stratified=stratified, quantiles=quantiles)
        self.mean, self.std = mean, _require_positive(std)

    def t_at_quantiles(self, quantiles: Tensor, schedule: NoiseSchedule) -> Tensor:
        # Not torch.sigmoid: its last bits depend on how many numbers are computed at once, and so on the batch's division.
        return schedule.quantile(1 / (1 + (-self.mean - self.std * torch.special.ndtri(quantiles)).exp()))


class LogNormal(Timesteps):
    """ln(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, arXiv 2206.00364, table 1), on any schedule."""

    def __init__(
        self, *, mean: float = -1.2, std: float = 1.2, stratified: bool = True, quantiles: Sequence[float] = (0.0, 1.0)
    ) -> None:
        super().__init__(stratified=stratified, quantiles=quantiles)
        self.mean, self.std = mean, _require_positive(std)

    def t_at_quantiles(self, quantiles: Tensor, schedule: NoiseSchedule) -> Tensor:
        ratio = (self.mean + self.std * torch.special.ndtri(quantiles)).exp()
        return schedule.nearest_trained(schedule.t_at_ratio(ratio))


def _require_positive(std: float) -> float:
    if std <= 0:
        raise ValueError(f"timesteps.std={std:g} must be above 0")
    return std
