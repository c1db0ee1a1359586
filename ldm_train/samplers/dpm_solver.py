"""DPM-Solver++ 2M: two-step exponential integrators of the clean estimate, in lambda = ln(alpha / sigma)."""

import math

from torch import Tensor

from ldm_train.samplers.base import Sampler, Step


class DPMSolver(Sampler):
    """DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095, algorithm 2), or its SDE form.

    x_s = sigma_s / sigma_t d^k x_t + alpha_s (1 - d^(1 + k)) D + k sigma_s sqrt(1 - d^2) z, with d = e^(lambda_t -
    lambda_s), k = 1 for the SDE and 0 for the ODE. D is extrapolated from this step's clean estimate and the previous one
    to the middle of the step; the first and the last step take their own estimate as D.

    Args:
        stochastic: whether to integrate the SDE.
    """

    def __init__(self, *, stochastic: bool = False) -> None:
        self.stochastic = stochastic

    def step(self, step: Step) -> Tensor:
        t, s, k = step.t, step.s, int(self.stochastic)
        decay = s.ratio / t.ratio
        x_s = s.sigma / t.sigma * decay**k * step.x_t + s.alpha * (1 - decay ** (1 + k)) * extrapolate_to_middle(step)
        return x_s + s.sigma * math.sqrt(1 - decay**2) * step.draw() if self.stochastic else x_s


def extrapolate_to_middle(step: Step) -> Tensor:
    """Return D, the clean estimate extrapolated to the middle of the step in lambda, if lambda is finite at both ends."""
    clean, before = step.estimate.clean, step.previous
    h = step.s.log_ratio - step.t.log_ratio
    if before is None or math.isinf(h) or math.isinf(before.t.log_ratio):
        return clean
    return clean + h / (2 * (step.t.log_ratio - before.t.log_ratio)) * (clean - before.estimate.clean)
