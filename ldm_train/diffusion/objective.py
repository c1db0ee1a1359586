"""The training objective: corrupt, denoise, weigh. It returns one loss per example."""

from dataclasses import dataclass

from torch import Tensor

from ldm_train.diffusion.broadcast import move_to_device
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.weighting import Weighting
from ldm_train.types import Conditioning


@dataclass
class Losses:
    """Per example, (B,): the weighted squared error of the output, and the squared error of the noise that it implies."""

    loss: Tensor
    noise_mse: Tensor


class Objective:
    """weight(t) |output - target|^2, averaged over each example's values (for noise: arXiv 2006.11239, eq. 14)."""

    def __init__(self, denoiser: Denoiser, weighting: Weighting) -> None:
        self.denoiser = denoiser
        self.weighting = weighting

    def __call__(
        self, x: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning, *, input_noise: Tensor | None = None
    ) -> Losses:
        """Return the losses for clean latents and noise, both (B, C, H, W), at t (B,).

        Args:
            input_noise: the noise that corrupts x, if it differs from the noise in the target.
        """
        denoiser = self.denoiser
        x_t = denoiser.schedule.corrupt(x, noise if input_noise is None else input_noise, t)
        estimate = denoiser(x_t, t, conditioning)
        error = (estimate.output - denoiser.target(x, noise, t)).square().flatten(1).mean(1)
        snr, clean_error = (
            move_to_device(values.float(), x.device)
            for values in (denoiser.schedule.snr(t), denoiser.clean_error_per_output_error(t))
        )
        noise_mse = (estimate.noise.detach() - noise).square().flatten(1).mean(1)
        return Losses(self.weighting.loss(error, snr, clean_error), noise_mse)
