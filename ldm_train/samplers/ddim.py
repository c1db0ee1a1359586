"""DDIM: x_s = alpha_s clean + sqrt(sigma_s^2 - v^2) noise + v z, with v = eta times DDPM's deviation."""

import math

from torch import Tensor

from ldm_train.samplers.base import Sampler, Step, TimePoint


class DDIM(Sampler):
    """Denoising diffusion implicit models (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16), on any schedule.

    Args:
        eta: 0 is deterministic, 1 has DDPM's posterior variance.
    """

    def __init__(self, *, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"sampler.eta={eta} must be from 0 (deterministic) to 1 (DDPM's variance)")
        self.eta = eta

    def step(self, step: Step) -> Tensor:
        s, deviation = step.s, self.eta * posterior_deviation(step.t, step.s)
        direction = math.sqrt(max(0.0, s.sigma**2 - deviation**2))
        x_s = s.alpha * step.estimate.clean + direction * step.estimate.noise
        return x_s + deviation * step.draw() if self.eta > 0 else x_s


def posterior_deviation(t: TimePoint, s: TimePoint) -> float:
    """Return the deviation of q(x_s | x_t, x): sigma_s / sigma_t sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2)."""
    return s.sigma / t.sigma * math.sqrt(max(0.0, t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2))
