"""Metrics of drawings whose true pictures are known. Images are float, (B, 3, H, W) in [-1, 1], of one size."""

from collections.abc import Sequence

import torch
from torch import Tensor


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio to the reference, dB, (B,)."""
    error = (images.clamp(-1, 1) - references).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp_min(1e-12))


def find_nearest(images: Tensor, candidates: Tensor) -> Tensor:
    """Return the index of the candidate (N, 3, H, W) that is nearest to each image in pixel distance, (B,) int64."""
    return torch.cdist(images.flatten(1), candidates.flatten(1)).argmin(1)


def background_accuracy(images: Tensor, truth: Tensor, asked: Sequence[str]) -> float:
    """Return the share of images (B, 3, H, W) whose corners have the colour of the background that was asked for.

    Args:
        truth: the true pictures (B, 3, H, W); the mean colour of their corners is the colour of their background.
        asked: the name of the background that each caption asks for.
    """
    names = sorted(set(asked))
    numbers = torch.tensor([names.index(name) for name in asked])
    colours = torch.stack([measure_corner_colours(truth[numbers == number]).mean(0) for number in range(len(names))])
    return (torch.cdist(measure_corner_colours(images), colours).argmin(1) == numbers).double().mean().item()


def measure_corner_colours(images: Tensor, *, side: int = 4) -> Tensor:
    """Return the mean colour of the four corners, squares of `side` pixels, (B, 3)."""
    corners = [images[..., rows, columns] for rows in _ends(side) for columns in _ends(side)]
    return torch.stack([corner.mean((2, 3)) for corner in corners]).mean(0)


def _ends(side: int) -> tuple[slice, slice]:
    return slice(None, side), slice(-side, None)
