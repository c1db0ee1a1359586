"""Heun's method: Euler's step, then the mean of the slopes at its two ends."""

from torch import Tensor

from ldm_train.samplers.base import Sampler, Step, TimePoint


class Heun(Sampler):
    """Heun's method (Karras et al. 2022, arXiv 2206.00364): second order, two calls of the denoiser a step, one in the last.

    By default it integrates rectified flow's dy / dw = noise - clean, for y = x / (alpha + sigma) and w = sigma / (alpha +
    sigma), which is finite on any schedule. Karras et al. (algorithm 1) integrate dy / dr = noise, for y = x / alpha and r
    = sigma / alpha, which needs small steps where r is large.

    Args:
        over_ratio: integrate over r, as in the paper; use it with spacing=karras.
    """

    def __init__(self, *, over_ratio: bool = False) -> None:
        self.over_ratio = over_ratio

    def check(self, start: TimePoint) -> None:
        if self.over_ratio and start.alpha == 0:
            raise ValueError(
                "sampler.over_ratio=true cannot start from pure noise; set it to false, or set spacing=karras with "
                "spacing.sigma_max"
            )

    def step(self, step: Step) -> Tensor:
        t, s, now = step.t, step.s, step.estimate
        x_s = s.alpha * now.clean + s.sigma * now.noise
        if s.sigma == 0:
            return x_s
        then = step.denoise(x_s, s)
        if self.over_ratio:
            return x_s + s.alpha * (s.ratio - t.ratio) / 2 * (then.noise - now.noise)
        scale = s.alpha + s.sigma
        half = (s.sigma / scale - t.sigma / (t.alpha + t.sigma)) / 2
        return x_s + scale * half * ((then.noise - then.clean) - (now.noise - now.clean))
