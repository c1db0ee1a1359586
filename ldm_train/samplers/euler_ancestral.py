"""Ancestral Euler: a step of Euler's method to a lower noise level than asked for, then noise back up to it."""

import math

from torch import Tensor

from ldm_train.samplers.base import Sampler, Step


class EulerAncestral(Sampler):
    """y_s = y_t + (down - r_t) noise + up z, for y = x / alpha and r = sigma / alpha (Crowson 2022, k-diffusion).

    up = eta r_s sqrt(1 - (r_s / r_t)^2), down^2 + up^2 = r_s^2.

    Args:
        eta: share of the noise that is replaced; 0 is Euler's method, 1 has DDPM's variance.
    """

    def __init__(self, *, eta: float = 1.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"sampler.eta={eta} must be from 0 (Euler's method) to 1 (DDPM's variance)")
        self.eta = eta

    def step(self, step: Step) -> Tensor:
        target = step.s.ratio
        up = self.eta * target * math.sqrt(1 - (target / step.t.ratio) ** 2)
        y_s = step.estimate.clean + math.sqrt(target**2 - up**2) * step.estimate.noise
        return step.s.alpha * (y_s + up * step.draw() if up > 0 else y_s)
