"""The training objective: corrupt, denoise, weigh; a loss per example."""

from dataclasses import dataclass

from torch import Tensor

from ldm_train.diffusion.broadcast import on_device
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

    def __call__(
        self, x: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning, *, shown_noise: Tensor | None = None
    ) -> Losses:
        """Losses for clean latents and noise (B, C, H, W) at t (B,).

        Args:
            shown_noise: what corrupts x, where that is not the noise to predict.
        """
        denoiser = self.denoiser
        x_t = denoiser.schedule.corrupt(x, noise if shown_noise is None else shown_noise, t)
        estimate = denoiser(x_t, t, conditioning)
        error = (estimate.output - denoiser.target(x, noise, t)).square().flatten(1).mean(1)
        snr, clean_error = (
            on_device(values.float(), x.device)
            for values in (denoiser.schedule.snr(t), denoiser.clean_error_per_output_error(t))
        )
        noise_mse = (estimate.noise.detach() - noise).square().flatten(1).mean(1)
        return Losses(self.weighting.loss(error, snr, clean_error), noise_mse)
