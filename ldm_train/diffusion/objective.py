"""The training objective: corrupt, denoise, weigh; a loss per example."""

from dataclasses import dataclass

from torch import Tensor

from ldm_train.diffusion.broadcast import per_example
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.weighting import Weighting
from ldm_train.types import Conditioning


@dataclass
class Losses:
    """Per example, (B,): the weighted error of the output, and the plain error of the noise that it implies."""

    loss: Tensor
    noise_mse: Tensor


class Objective:
    """weight(t) |output - target|^2, averaged over each example's values (arXiv 2006.11239, eq. 14, for noise)."""

    def __init__(self, denoiser: Denoiser, weighting: Weighting) -> None:
        self.denoiser = denoiser
        self.weighting = weighting

    def __call__(self, x: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning) -> Losses:
        """Losses for clean latents and noise (B, C, H, W) at t (B,) from 1 to T."""
        schedule, prediction = self.denoiser.schedule, self.denoiser.prediction
        estimate = self.denoiser(schedule.corrupt(x, noise, t), t, conditioning)
        alpha, sigma = schedule(t)
        target = prediction.target(x, noise, per_example(alpha, x), per_example(sigma, x))
        weight = self.weighting(alpha, sigma, prediction).to(x.dtype)
        error = (estimate.output.to(x.dtype) - target).square().flatten(1).mean(1)
        noise_mse = (estimate.noise.detach() - noise).square().flatten(1).mean(1)
        return Losses(weight * error, noise_mse)
