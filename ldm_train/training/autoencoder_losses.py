"""The terms of an autoencoder's loss. Images are (B, 3, H, W) in [-1, 1], latents (B, C, h, w)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm_train.types import Moments

GRADIENT_SCALES = 3
SMALLEST_SCALE = 0.25  # EQ-VAE's: below it, a latent of 16x16 has too few values to say what is in a picture


def kl_divergence(moments: Moments) -> Tensor:
    """KL(N(mean, var) || N(0, 1)) per latent value, mean per example, (B,) (Kingma, Welling 2014, arXiv 1312.6114, B)."""
    assert moments.log_variance is not None
    terms = 0.5 * (moments.mean.square() + moments.log_variance.exp() - 1 - moments.log_variance)
    return terms.flatten(1).mean(1)


def gradient_error(decoded: Tensor, images: Tensor) -> Tensor:
    """Return the mean over scales k of mean |d/dx R_k| + mean |d/dy R_k|, (), for R = decoded - images.

    R_k has half the side of R_(k-1), by average pooling; a side of 1 has no gradient and ends the scales. It punishes
    blurred edges, which L1 and MSE forgive (Ranftl et al. 2019, arXiv 1907.01341, eq. 11).
    """
    difference, errors = decoded - images, list[Tensor]()
    while len(errors) < GRADIENT_SCALES and min(difference.shape[-2:]) > 1:
        errors.append(difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean())
        difference = F.avg_pool2d(difference, 2)
    return torch.stack(errors).mean() if errors else difference.new_zeros(())


def scale_and_turn(images: Tensor, side: int, turns: Tensor) -> Tensor:
    """Return images or latents (B, C, H, H) scaled to (B, C, side, side) and turned left by turns (B,) times 90 degrees.

    This is tau of EQ-VAE (Kouzelis et al. 2025, arXiv 2502.09509, section 3). The interpolation averages over what a smaller
    pixel covers, so that it does to latents what it does to pictures.
    """
    assert images.shape[-1] == images.shape[-2]
    if side != images.shape[-1]:
        rows = interpolation_matrix(images.shape[-1], side).to(images)
        with torch.autocast(images.device.type, enabled=False):  # which would round pictures to 16 bits
            images = rows @ images @ rows.mT
    return torch.stack([image.rot90(turn, (-2, -1)) for image, turn in zip(images, turns.tolist(), strict=True)])


def interpolation_matrix(size: int, side: int) -> Tensor:
    """Return the (side, size) matrix that interpolates linearly; its product's gradient has the same bits each time.

    On a GPU, `interpolate` with antialiasing adds up its gradient in an order that changes from run to run.
    """
    return F.interpolate(torch.eye(size)[None, None], size=(side, size), mode="bilinear", antialias=True)[0, 0]


def choose_side(side: int, uniform: float) -> int:
    """Return the side of scaled latents: `side` times a factor from 0.25 to 1, chosen by a number in [0, 1); at least 1."""
    return max(1, round(side * (SMALLEST_SCALE + (1 - SMALLEST_SCALE) * uniform)))
