"""The loop that all samplers share: spaced timesteps from T down to 0, one step between neighbours."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ldm_train.diffusion.denoiser import Denoises, Estimate
from ldm_train.types import Conditioning

StepCallback = Callable[[int, Tensor, Estimate], None]


def trailing(num_steps: int, steps: int) -> list[int]:
    """`steps` + 1 timesteps from T down to 0, evenly, T included (Lin et al. 2024, arXiv 2305.08891, table 2).

    Raises:
        ValueError: fewer than one step, or more than the schedule has.
    """
    if not 1 <= steps <= num_steps:
        raise ValueError(f"steps={steps} must be from 1 to the schedule's {num_steps}")
    return [round(num_steps * (steps - i) / steps) for i in range(steps + 1)]


class Sampler(ABC):
    """A method of going from x_T to x_0. Subclasses write one step."""

    @abstractmethod
    def step(
        self, x_t: Tensor, estimate: Estimate, t: tuple[Tensor, Tensor], s: tuple[Tensor, Tensor], noise: Tensor
    ) -> Tensor:
        """x_s from x_t (B, C, H, W) and its estimate; t and s are (alpha, sigma), scalars; noise is standard normal."""

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoises,
        x_t: Tensor,
        conditioning: Conditioning,
        *,
        steps: int,
        draw: Callable[[int], Tensor],
        callback: StepCallback | None = None,
    ) -> Tensor:
        """The sample x_0, (B, C, H, W), from pure noise alike.

        Args:
            draw: the step's number to standard normal noise like x_t, for methods that add some.
            callback: called after each step with its number, x_s and the estimate.
        """
        timesteps = trailing(denoiser.schedule.num_steps, steps)
        for number, (t, s) in enumerate(pairwise(timesteps)):
            batch_t = torch.full((len(x_t),), t, device=x_t.device)
            estimate = denoiser(x_t, batch_t, conditioning)
            at_t, at_s = (tuple(v.to(x_t)[0] for v in denoiser.schedule(torch.tensor([u]))) for u in (t, s))
            x_t = self.step(x_t, estimate, at_t, at_s, draw(number))  # type: ignore[arg-type]
            if callback is not None:
                callback(number, x_t, estimate)
        return x_t
