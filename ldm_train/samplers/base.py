"""The loop that all samplers share: points in time from noise to clean, one step between neighbours."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ldm_train.diffusion.denoiser import Denoises, Estimate
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.samplers.spacings import Spacing, Trailing
from ldm_train.types import Conditioning

StepCallback = Callable[[int, Tensor, Estimate], None]
Draw = Callable[[int], Tensor]


@dataclass(frozen=True)
class Point:
    """A point in time: t, and alpha and sigma there."""

    t: float
    alpha: float
    sigma: float

    @classmethod
    def of(cls, schedule: NoiseSchedule, t: float) -> "Point":
        alpha, sigma = (
            value.item() for value in schedule(torch.tensor([t], dtype=None if isinstance(t, int) else torch.double))
        )
        return cls(t, alpha, sigma)

    @property
    def ratio(self) -> float:
        """sigma / alpha; infinite at pure noise."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def log_ratio(self) -> float:
        """ln(alpha / sigma), half the log-SNR, which DPM-Solver calls lambda; infinite at both ends."""
        return -math.log(self.ratio) if 0 < self.ratio < math.inf else math.copysign(math.inf, 1 - self.ratio)


@dataclass
class Step:
    """One step of a sampler, from t to s < t.

    Args:
        x_t: (B, C, H, W); a method that corrects it leaves the corrected one here for the next step.
        estimate: the denoiser's at x_t.
        t, s: where the step starts and ends.
        draw: standard normal noise like x_t.
        denoise: the denoiser at any latents and point, for methods that look ahead.
        previous: the step before, and through it two more; None at the start.
    """

    x_t: Tensor
    estimate: Estimate
    t: Point
    s: Point
    draw: Callable[[], Tensor]
    denoise: Callable[[Tensor, Point], Estimate]
    previous: "Step | None" = None


@dataclass(frozen=True)
class Picture:
    """What to start from instead of pure noise.

    Args:
        latents: an encoded picture, (B, C, H, W).
        strength: the share of the steps that is taken, above 0 to 1: how much of the picture may change.
        mask: 1 where to draw, 0 where to keep the picture, (B or 1, 1, H, W); None draws all.
    """

    latents: Tensor
    strength: float = 1.0
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength:g} must be above 0 (hardly a change) and at most 1 (all steps)")

    def at(self, point: Point, noise: Tensor) -> Tensor:
        """The picture with this noise at a point, (B, C, H, W)."""
        return point.alpha * self.latents + point.sigma * noise


class Sampler(ABC):
    """A method of going from x_T to x_0. Subclasses write one step, and keep nothing between calls."""

    @abstractmethod
    def step(self, step: Step) -> Tensor:
        """x_s, (B, C, H, W)."""

    def check(self, start: Point) -> None:  # noqa: B027
        """Refuse a start from which the method is undefined, by a ValueError."""

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoises,
        noise: Tensor,
        conditioning: Conditioning,
        *,
        steps: int,
        spacing: Spacing | None = None,
        generator: torch.Generator | Draw | None = None,
        picture: Picture | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """The sample x_0, (B, C, H, W).

        Args:
            noise: standard normal, (B, C, H, W).
            spacing: which points in time; trailing unless given.
            generator: of the noise that stochastic methods add, or a function from the step's number to noise like x_t.
            picture: what to start from instead of noise alone, and what to keep of it.
            callback: called after each step with its number, x_s and the estimate.

        Raises:
            ValueError: steps that the schedule does not have, or a stochastic method without a generator.
        """
        schedule = denoiser.schedule
        points = [Point.of(schedule, t) for t in (spacing or Trailing())(schedule, steps)]
        self.check(points[0])
        if picture is not None:
            points = points[-1 - max(1, round(picture.strength * steps)) :]

        def denoise(x: Tensor, at: Point) -> Estimate:
            return denoiser(
                x, torch.full((len(x),), at.t, dtype=None if isinstance(at.t, int) else torch.double), conditioning
            )

        # Of unit-variance data x_T has this deviation.
        x_t = math.hypot(points[0].alpha, points[0].sigma) * noise if picture is None else picture.at(points[0], noise)
        previous: Step | None = None
        for number, (t, s) in enumerate(pairwise(points)):
            draw = partial(drawn, generator, number, noise)
            now = Step(x_t, denoise(x_t, t), t, s, draw, denoise, previous)
            x_t, previous = self.step(now), now
            if now.previous is not None and now.previous.previous is not None:
                now.previous.previous.previous = None
            if picture is not None and picture.mask is not None:
                x_t = torch.where(picture.mask > 0.5, x_t, picture.at(s, noise))
            if callback is not None:
                callback(number, x_t, now.estimate)
        return x_t


def drawn(generator: torch.Generator | Draw | None, number: int, like: Tensor) -> Tensor:
    """Standard normal noise of a step, like x_t, where x_t is."""
    if generator is None:
        raise ValueError("this sampler adds noise and needs a `generator`, or a function from the step's number to noise")
    if isinstance(generator, torch.Generator):
        return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)
    return generator(number)
