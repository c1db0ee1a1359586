"""The points in time at which a sampler calls the denoiser, as the schedule's t, from noise to clean."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch

from ldm_train.diffusion.schedules.schedule import NoiseSchedule


class Spacing(ABC):
    """A rule for the points of a given number of steps, on any schedule."""

    @abstractmethod
    def points(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        """Return `steps` falling points t, without the 0 at the end.

        On a discrete schedule the points are whole, unless the rule says otherwise.
        """

    def __call__(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        """Return `steps` + 1 points t, strictly falling, the last one 0.

        Raises:
            ValueError: fewer than one step, more steps than a discrete schedule has, or points that do not fall from its
                end.
        """
        if steps < 1 or (schedule.discrete and steps > schedule.end):
            accepted = f"from 1 to the schedule's {schedule.end}" if schedule.discrete else "at least 1"
            raise ValueError(f"steps={steps} must be {accepted}")
        points = [*self.points(schedule, steps), 0]
        if points[0] > schedule.end or not all(t > s for t, s in pairwise(points)):
            listed = f"{points}" if len(points) < 12 else f"{points[:4]} … {points[-4:]}"
            raise ValueError(
                f"spacing={type(self).__name__.lower()} gives t = {listed}, which do not fall strictly from at most "
                f"{schedule.end} to 0"
            )
        return points


class Trailing(Spacing):
    """Evenly from the end (Lin et al. 2024, arXiv 2305.08891, table 2), so that sampling starts at the noise of training."""

    def points(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        points = [schedule.t_at_share((steps - i) / steps) for i in range(steps)]
        return [round(t) for t in points] if schedule.discrete else points


class Leading(Spacing):
    """Evenly from the start, without the end, as Stable Diffusion's samplers do.

    Args:
        offset: added to each t of a discrete schedule; Stable Diffusion uses 1.
    """

    def __init__(self, *, offset: int = 0) -> None:
        self.offset = offset

    def points(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        if schedule.discrete:
            stride = int(schedule.end) // steps
            return [1 + self.offset + stride * (steps - 1 - i) for i in range(steps)]
        return schedule.quantile(torch.arange(steps - 1, -1, -1, dtype=torch.float64) / steps).tolist()


class Linspace(Spacing):
    """Evenly from the end to the start, including both."""

    def points(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        shares = [1 - i / max(1, steps - 1) for i in range(steps)]
        if schedule.discrete:  # t - 1 is rounded, as in published samplers
            return [1 + round((schedule.end - 1) * share) for share in shares]
        return schedule.quantile(torch.tensor(shares, dtype=torch.float64)).tolist()


class Karras(Spacing):
    """Evenly in (sigma / alpha)^(1 / rho) (Karras et al. 2022, arXiv 2206.00364, eq. 5): most steps at low noise.

    The points need not be whole on a discrete schedule.

    Args:
        rho: the higher, the more steps at low noise.
        sigma_min, sigma_max: the last and the first noise level sigma / alpha; the schedule's ends unless given.
    """

    def __init__(self, *, rho: float = 7.0, sigma_min: float | None = None, sigma_max: float | None = None) -> None:
        if rho <= 0:
            raise ValueError(f"spacing.rho={rho:g} must be above 0; the paper uses 7")
        self.rho = rho
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def points(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        ends = schedule.ratio(torch.tensor([schedule.end, schedule.start], dtype=torch.float64)).tolist()
        high = ends[0] if self.sigma_max is None else self.sigma_max
        low = ends[1] if self.sigma_min is None else self.sigma_min
        if low < ends[1] * (1 - 1e-6):
            raise ValueError(
                f"spacing.sigma_min={low} is below the schedule's lowest noise level {ends[1]}; set it to null to use that"
            )
        if high > ends[0] * (1 + 1e-6):
            raise ValueError(
                f"spacing.sigma_max={high} is above the schedule's highest noise level {ends[0]}; set it to null to use that"
            )
        if not 0 < low < high < float("inf"):
            raise ValueError(
                f"spacing=karras needs noise levels 0 < sigma_min < sigma_max < infinity, got {low} and {high}; on a "
                "schedule that ends in pure noise set spacing.sigma_max, or choose spacing=trailing"
            )
        share = torch.linspace(0, 1, steps, dtype=torch.float64)
        roots = (1 - share) * high ** (1 / self.rho) + share * low ** (1 / self.rho)
        return schedule.t_at_ratio(roots.pow(self.rho)).clamp(schedule.start, schedule.end).tolist()


class Listed(Spacing):
    """The given points, in the schedule's t (1 to T if it is discrete), from noise to clean, without the 0 at the end."""

    def __init__(self, *, timesteps: Sequence[float]) -> None:
        self.timesteps = list(timesteps)
        if not all(isinstance(t, int | float) for t in self.timesteps):
            raise ValueError(f"spacing.timesteps={self.timesteps} must be numbers")

    def points(self, schedule: NoiseSchedule, steps: int) -> list[float]:
        if steps != len(self.timesteps):
            raise ValueError(
                f"steps={steps}, but spacing.timesteps lists {len(self.timesteps)}; set steps={len(self.timesteps)}"
            )
        return self.timesteps
