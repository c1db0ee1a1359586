"""The loop that all samplers share: points in time from noise to clean, one step between neighbours."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ldm_train.diffusion.denoiser import AnyDenoiser, Estimate
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.samplers.spacings import Spacing, Trailing
from ldm_train.types import Conditioning
from ldm_train.util.kept_values import keep_values

StepCallback = Callable[[int, Tensor, Estimate], None]
NoiseOfStep = Callable[[int], Tensor]


@dataclass(frozen=True)
class TimePoint:
    """A t of a schedule, with alpha and sigma at it."""

    t: float
    alpha: float
    sigma: float

    @classmethod
    def of(cls, schedule: NoiseSchedule, t: float) -> "TimePoint":
        """Return the point of a schedule at t."""
        alpha, sigma = (value.item() for value in schedule(torch.tensor([t], dtype=torch.float64)))
        return cls(t, alpha, sigma)

    @property
    def ratio(self) -> float:
        """sigma / alpha; infinity at pure noise."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def log_ratio(self) -> float:
        """ln(alpha / sigma), half the log-SNR, which DPM-Solver calls lambda; infinite at both ends."""
        return -math.log(self.ratio) if 0 < self.ratio < math.inf else math.copysign(math.inf, 1 - self.ratio)


@dataclass
class Step:
    """One step of a sampler, from t to s < t.

    Args:
        x_t: (B, C, H, W); a method that corrects x_t assigns the corrected one here, for the next step to use.
        estimate: the denoiser's estimate at x_t.
        t, s: where the step starts and ends.
        draw: returns standard normal noise like x_t, always the same in this step.
        denoise: calls the denoiser at any latents and point, for methods that look ahead.
        previous: the previous step, which links to two more; None in the first.
    """

    x_t: Tensor
    estimate: Estimate
    t: TimePoint
    s: TimePoint
    draw: Callable[[], Tensor]
    denoise: Callable[[Tensor, TimePoint], Estimate]
    previous: "Step | None" = None


@dataclass(frozen=True)
class InitialPicture:
    """A picture from which sampling starts instead of pure noise.

    Args:
        latents: the encoded picture, (B, C, H, W).
        strength: the share of the steps that is taken, above 0 to 1; the more, the more the picture changes.
        mask: 1 where to draw, 0 where to keep the picture, (B or 1, 1, H, W); None draws everywhere.
    """

    latents: Tensor
    strength: float = 1.0
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength:g} must be above 0 (hardly a change) and at most 1 (all steps)")

    def at(self, point: TimePoint, noise: Tensor) -> Tensor:
        """Return the picture corrupted by this noise at a point, (B, C, H, W)."""
        return point.alpha * self.latents + point.sigma * noise


class Sampler(ABC):
    """A method to go from x_T to x_0. Subclasses write one step, and keep nothing between calls."""

    @abstractmethod
    def step(self, step: Step) -> Tensor:
        """Return x_s, (B, C, H, W)."""

    def check(self, start: TimePoint) -> None:  # noqa: B027
        """Raise a ValueError if the method is undefined when it starts at this point."""

    @torch.no_grad()
    @keep_values()
    def __call__(
        self,
        denoiser: AnyDenoiser,
        noise: Tensor,
        conditioning: Conditioning,
        *,
        steps: int,
        spacing: Spacing | None = None,
        generator: torch.Generator | NoiseOfStep | None = None,
        picture: InitialPicture | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Return the sample x_0, (B, C, H, W).

        Args:
            noise: standard normal, (B, C, H, W).
            steps: number of steps; the denoiser is called once a step, or twice by second-order methods.
            spacing: the points in time; trailing unless given.
            generator: source of the noise that stochastic methods add: a generator, or a function from a step's number
                (from 0) to noise like x_t.
            picture: what to start from instead of pure noise, and what to keep of it.
            callback: called after each step with its number (from 0), x_s and the estimate.

        The weights and the conditioning must not change while it draws.

        Raises:
            ValueError: the schedule has fewer steps, the method is undefined at the start, or a stochastic method has no
                generator.
        """
        schedule = denoiser.schedule
        points = [TimePoint.of(schedule, t) for t in (spacing or Trailing())(schedule, steps)]
        self.check(points[0])
        if picture is not None:
            points = points[-1 - max(1, round(picture.strength * steps)) :]

        def denoise(x: Tensor, at: TimePoint) -> Estimate:
            return denoiser(x, torch.full((len(x),), at.t, dtype=torch.float64), conditioning)

        # The standard deviation of x_T, for data of unit variance.
        x_t = math.hypot(points[0].alpha, points[0].sigma) * noise if picture is None else picture.at(points[0], noise)
        previous: Step | None = None
        for number, (t, s) in enumerate(pairwise(points)):
            draw = partial(draw_noise, generator, number, noise)
            now = Step(x_t, denoise(x_t, t), t, s, draw, denoise, previous)
            x_t, previous = self.step(now), now
            if now.previous is not None and now.previous.previous is not None:
                now.previous.previous.previous = None  # older estimates are needed by no method, and would fill the memory
            if picture is not None and picture.mask is not None:
                x_t = torch.where(picture.mask > 0.5, x_t, picture.at(s, noise))
            if callback is not None:
                callback(number, x_t, now.estimate)
        return x_t


def draw_noise(generator: torch.Generator | NoiseOfStep | None, number: int, like: Tensor) -> Tensor:
    """Return the standard normal noise of step `number`, with the shape, dtype and device of `like`."""
    if generator is None:
        raise ValueError("this sampler adds noise: pass `generator`, a torch.Generator or a function from a step to noise")
    if isinstance(generator, torch.Generator):
        return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)
    return generator(number)
