"""The mask of a picture to start from: read as what it is meant, laid over the picture as that was cut, and pasted by."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.data.pictures.crops import Size, centre_view, format_size
from ldm_train.data.pictures.decoding import render_view
from ldm_train.data.pictures.images import DECODE_ERRORS
from ldm_train.data.pictures.mask_files import decode_mask
from ldm_train.util.inputs import MAX_PICTURE, describe_error, read_input
from ldm_train.util.messages import note, warn


@dataclass(frozen=True)
class KeptPixels:
    """The pixels of a picture that are not drawn anew.

    Without them what is kept would come back from the autoencoder, which changes every pixel.

    Args:
        original: the picture, (1, 3, H, W) in [-1, 1].
        drawn: the share of what is drawn in each pixel, (1, 1, H, W): 1 inside the mask, 0 outside, and between at its edge.
    """

    original: Tensor
    drawn: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Return drawn images (B, 3, H, W) with the original put back; where nothing is drawn it is kept bit for bit."""
        drawn, original = self.drawn.to(images), self.original.to(images)
        mixed = torch.lerp(original.expand_as(images), images, drawn)
        return torch.where(drawn == 0, original, torch.where(drawn == 1, images, mixed))


def soften_edge(mask: Tensor, width: int) -> Tensor:
    """Return a mask (1, 1, H, W) whose edges rise from 0 to 1 over `width` pixels, half of them on either side."""
    reach = width // 2
    if reach == 0:
        return mask
    padded = torch.nn.functional.pad(mask.double(), (reach,) * 4, mode="replicate")
    rows = torch.nn.functional.avg_pool2d(padded, (2 * reach + 1, 1), stride=1)
    return torch.nn.functional.avg_pool2d(rows, (1, 2 * reach + 1), stride=1).to(mask)


def read_mask(path: str, *, picture: Size, size: Size) -> Tensor:
    """Return how white the mask is in each pixel of what is drawn, from 0 (keep) to 1 (draw anew), (1, 1, H, W).

    Args:
        picture: (height, width) of the whole picture that it is of.
        size: (height, width) of what is drawn.

    Raises:
        ValueError: it cannot be read, does not say where, or has another shape than the picture and what is drawn.
    """
    try:
        mask, finding = decode_mask(read_input(Path(path), limit=MAX_PICTURE))
    except DECODE_ERRORS as error:
        raise ValueError(f"mask={path} cannot be read as a mask: {describe_error(error)}") from error
    own = (mask.height, mask.width)
    if not is_alike(own, picture) and not is_alike(own, size):
        raise ValueError(
            f"mask={path} is {format_size(own)} pixels, the picture {format_size(picture)}: they "
            f"must have the same shape; or give a mask of the shape of what is drawn, {format_size(size)}"
        )
    if finding is not None:
        note(f"note: mask={path} {finding}")
    return torch.from_numpy(render_view(mask, centre_view(own, size))).float().mean(-1)[None, None] / 255


def reduce_mask(white: Tensor, latents: Size, *, path: str) -> Tensor:
    """Return which latents to draw anew, (1, 1, h, w) bool: those of which the mask covers more than half."""
    anew = torch.nn.functional.interpolate(white * 2 - 1, size=latents, mode="area") > 0
    if anew.all():
        warn(f"mask={path} is white everywhere, so the whole picture is drawn anew")
    elif not anew.any():
        warn(f"mask={path} is black everywhere, so nothing of the picture is drawn anew")
    return anew


def is_alike(one: Size, other: Size) -> bool:
    """Return whether two (height, width) are of one shape, to a pixel that was rounded."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= sum(other)
