"""The training objective: corrupt, denoise, weigh. It returns one loss per example."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.diffusion.broadcast import move_to_device
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.weighting import Weighting
from ldm_train.types import Conditioning

Penalty = Callable[[Tensor], Tensor]
"""Maps the error of each value of the output to what it costs."""


def squared(error: Tensor) -> Tensor:
    """Return error^2, of which the mean is learned (Ho et al. 2020, arXiv 2006.11239, eq. 14)."""
    return error.square()


def absolute(error: Tensor) -> Tensor:
    """Return |error|, of which the median is learned."""
    return error.abs()


class Huber:
    """2 delta (sqrt(error^2 + delta^2) - delta): about error^2 below delta, and 2 delta |error| above.

    Outliers, such as damaged pictures, then pull less (the pseudo-Huber loss; Charbonnier et al. 1997).

    Args:
        delta: above 0.
    """

    def __init__(self, delta: float) -> None:
        if not delta > 0:
            raise ValueError(f"huber_delta={delta:g} must be above 0")
        self.delta = delta

    def __call__(self, error: Tensor) -> Tensor:
        return 2 * self.delta * ((error.square() + self.delta**2).sqrt() - self.delta)


@dataclass
class Losses:
    """Per example, (B,): the weighted error of the output, and the squared error of the noise that it implies."""

    loss: Tensor
    noise_mse: Tensor


def compute_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (B,) of values (B, C, H, W), weighted by a mask (B, 1, H, W); 0 where the mask is 0 everywhere."""
    if mask is None:
        return values.flatten(1).mean(1)
    total = mask.flatten(1).sum(1)
    summed = (values.mean(1, keepdim=True) * mask).flatten(1).sum(1)
    return torch.where(total > 0, summed / total.clamp(min=torch.finfo(total.dtype).tiny), torch.zeros_like(total))


class Objective:
    """weight(t) penalty(output - target), averaged over each example's values (for noise: arXiv 2006.11239, eq. 14)."""

    def __init__(self, denoiser: Denoiser, weighting: Weighting, penalty: Penalty = squared) -> None:
        self.denoiser = denoiser
        self.penalty = penalty
        self.weighting = weighting

    def __call__(
        self,
        x: Tensor,
        noise: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        *,
        input_noise: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Losses:
        """Return the losses for clean latents and noise, both (B, C, H, W), at t (B,).

        Args:
            input_noise: the noise that corrupts x, if it differs from the noise in the target.
            mask: the weight of each position in the mean, at least 0, (B, 1, H, W); None for 1.
        """
        denoiser = self.denoiser
        x_t = denoiser.schedule.corrupt(x, noise if input_noise is None else input_noise, t)
        estimate = denoiser(x_t, t, conditioning)
        error = compute_mean(self.penalty(estimate.output - denoiser.target(x, noise, t)), mask)
        snr, clean_error = (
            move_to_device(values.float(), x.device)
            for values in (denoiser.schedule.snr(t), denoiser.clean_error_per_output_error(t))
        )
        noise_mse = compute_mean((estimate.noise.detach() - noise).square(), mask)
        return Losses(self.weighting.loss(error, snr, clean_error), noise_mse)
