"""DDIM: x_s = alpha_s clean + sqrt(sigma_s^2 - v^2) noise + v z, with v = eta times DDPM's deviation."""

from torch import Tensor

from ldm_train.diffusion.denoiser import Estimate
from ldm_train.samplers.base import Sampler


class DDIM(Sampler):
    """Song et al. 2021 (arXiv 2010.02502, eq. 12 and 16).

    Args:
        eta: 0 is deterministic, 1 has DDPM's posterior variance.
    """

    def __init__(self, *, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta} must be from 0 (deterministic) to 1 (DDPM's variance)")
        self.eta = eta

    def step(
        self, x_t: Tensor, estimate: Estimate, t: tuple[Tensor, Tensor], s: tuple[Tensor, Tensor], noise: Tensor
    ) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = t, s
        variance = (sigma_s / sigma_t).square() * (1 - (alpha_t / alpha_s).square())
        deviation = self.eta * variance.clamp_min(0).sqrt()
        direction = (sigma_s.square() - deviation.square()).clamp_min(0).sqrt()
        return alpha_s * estimate.clean + direction * estimate.noise + deviation * noise
