"""Euler's method on dy / dr = noise, for y = x / alpha and r = sigma / alpha."""

from torch import Tensor

from ldm_train.samplers.base import Sampler, Step


class Euler(Sampler):
    """y_s = y_t + (r_s - r_t) noise (Karras et al. 2022, arXiv 2206.00364, eq. 1): the steps of DDIM at eta = 0.

    With y_t = clean + r_t noise this is y_s = clean + r_s noise, which also holds at pure noise (r = infinity). Euler's
    step in the coordinates of rectified flow, (x, t), is the same.
    """

    def step(self, step: Step) -> Tensor:
        return step.s.alpha * step.estimate.clean + step.s.sigma * step.estimate.noise
