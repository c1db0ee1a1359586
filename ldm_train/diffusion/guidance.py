"""Guidance as a denoiser around a denoiser."""

import torch
from torch import Tensor

from ldm_train.diffusion.denoiser import Denoiser, Estimate
from ldm_train.types import Conditioning


class ClassifierFreeGuidance:
    """output = null + scale (conditional - null) (Ho and Salimans 2022, arXiv 2207.12598, eq. 6, with scale = 1 + w).

    Both in one batched call. A scale of 1 is the conditional network alone, and calls nothing else.

    Args:
        denoiser: the plain one.
        null: conditioning of the empty caption (or of a negative prompt), for the batch that will come.
        scale: 0 ignores the prompt, 1 follows it, more exaggerates it.
    """

    def __init__(self, denoiser: Denoiser, null: Conditioning, scale: float) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.null = null
        self.scale = scale

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        if self.scale == 1:
            return self.denoiser(x_t, t, conditioning)
        both = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), conditioning.cat(self.null))
        conditional, null = both.output.chunk(2)
        return self.denoiser.estimate(null + self.scale * (conditional - null), x_t, t)
