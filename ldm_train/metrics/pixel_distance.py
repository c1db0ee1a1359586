"""Distances in pixels between pictures and their references. Images are float, (B, 3, H, W) in [-1, 1], of one size."""

import torch
from torch import Tensor


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio to the reference, dB, (B,)."""
    error = (images.clamp(-1, 1) - references).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp_min(1e-12))


def find_nearest(images: Tensor, candidates: Tensor) -> Tensor:
    """Return the index of the candidate (N, 3, H, W) that is nearest to each image in pixel distance, (B,) int64."""
    return torch.cdist(images.flatten(1), candidates.flatten(1)).argmin(1)
