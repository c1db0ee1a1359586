"""Which t to train on: a distribution over a schedule's t, drawn by the example's position in the run."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.diffusion.schedules.schedule import NoiseSchedule


class Timesteps(ABC):
    """A distribution over t, given as its quantiles.

    Args:
        stratified: one draw per global batch, shifted by k / batch_size for its k-th example, so that a batch covers the
            distribution evenly (Kingma et al. 2021, arXiv 2107.00630, appendix I.1): the same expectation, less variance.
            Which example gets which stratum is shuffled by the order of the run. Else each example has its own draw.
    """

    def __init__(self, *, stratified: bool = True) -> None:
        self.stratified = stratified

    @abstractmethod
    def at(self, quantiles: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The t of a schedule, (B,), below which shares (B,) in [0, 1) of the draws lie."""

    def __call__(self, positions: Tensor, *, schedule: NoiseSchedule, seed: int, batch_size: int) -> Tensor:
        """t, (B,) on the CPU, for positions (B,) of a run whose global batch is `batch_size`."""
        if not self.stratified:
            return self.at(draws.uniform(seed, "timestep", positions).double(), schedule)
        steps, slots = positions // batch_size, positions % batch_size
        offsets = {step: draws.uniform(seed, "timestep", torch.tensor([step]))[0].item() for step in steps.unique().tolist()}
        start = torch.tensor([offsets[step] for step in steps.tolist()], dtype=torch.float64)
        return self.at((start + slots.cpu().double() / batch_size) % 1, schedule)


class Uniform(Timesteps):
    """Every t alike (Ho et al. 2020, arXiv 2006.11239, algorithm 1)."""

    def at(self, quantiles: Tensor, schedule: NoiseSchedule) -> Tensor:
        return schedule.quantile(quantiles)


class LogitNormal(Timesteps):
    """t / end = 1 / (1 + exp(-N(mean, std^2))): more of the middle (Esser et al. 2024, arXiv 2403.03206, eq. 19).

    Exactly, t - start is that share of end - start.
    """

    def __init__(self, *, mean: float = 0.0, std: float = 1.0, stratified: bool = True) -> None:
        super().__init__(stratified=stratified)
        self.mean, self.std = mean, _positive(std)

    def at(self, quantiles: Tensor, schedule: NoiseSchedule) -> Tensor:
        # torch.sigmoid rounds one number otherwise than many.
        return schedule.quantile(1 / (1 + (-self.mean - self.std * torch.special.ndtri(quantiles)).exp()))


class LogNormal(Timesteps):
    """ln(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, arXiv 2206.00364, table 1), on any schedule."""

    def __init__(self, *, mean: float = -1.2, std: float = 1.2, stratified: bool = True) -> None:
        super().__init__(stratified=stratified)
        self.mean, self.std = mean, _positive(std)

    def at(self, quantiles: Tensor, schedule: NoiseSchedule) -> Tensor:
        ratio = (self.mean + self.std * torch.special.ndtri(quantiles)).exp()
        return schedule.trained(schedule.time_of(ratio))


def _positive(std: float) -> float:
    if std <= 0:
        raise ValueError(f"timesteps.std={std} must be above 0")
    return std
