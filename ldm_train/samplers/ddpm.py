"""DDPM: the posterior q(x_s | x_t, clean), with the estimate in the clean picture's place."""

from torch import Tensor

from ldm_train.diffusion.denoiser import Estimate
from ldm_train.samplers.base import Sampler


class DDPM(Sampler):
    """Ho et al. 2020 (arXiv 2006.11239, eq. 6 and 7), for neighbours t > s of any spacing."""

    def step(
        self, x_t: Tensor, estimate: Estimate, t: tuple[Tensor, Tensor], s: tuple[Tensor, Tensor], noise: Tensor
    ) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = t, s
        ratio = alpha_t / alpha_s
        step_variance = sigma_t.square() - (ratio * sigma_s).square()
        mean = (ratio * sigma_s.square() * x_t + alpha_s * step_variance * estimate.clean) / sigma_t.square()
        return mean + (step_variance.clamp_min(0).sqrt() * sigma_s / sigma_t) * noise
