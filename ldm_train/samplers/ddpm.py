"""DDPM: draw from the posterior q(x_s | x_t, x), with the clean estimate as x."""

from torch import Tensor

from ldm_train.samplers.base import Sampler, Step
from ldm_train.samplers.ddim import posterior_deviation


class DDPM(Sampler):
    """Ancestral sampling (Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7), on any schedule, over steps of any length."""

    def step(self, step: Step) -> Tensor:
        t, s = step.t, step.s
        ratio = t.alpha / s.alpha
        step_variance = t.sigma**2 - (ratio * s.sigma) ** 2
        mean = (ratio * s.sigma**2 * step.x_t + s.alpha * step_variance * step.estimate.clean) / t.sigma**2
        return mean + posterior_deviation(t, s) * step.draw()
