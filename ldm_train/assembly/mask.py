"""The mask of a picture to start from: read as what it is meant, and laid over the picture as that was cut."""

from pathlib import Path

import torch
from torch import Tensor

from ldm_train.data.pictures.crops import Size, centre_view
from ldm_train.data.pictures.decoding import render_view
from ldm_train.data.pictures.images import DECODE_ERRORS
from ldm_train.data.pictures.mask_files import decode_mask
from ldm_train.util.inputs import MAX_PICTURE, describe_error, read_input


def read_mask(path: str, *, picture: Size, size: Size, latents: Size) -> Tensor:
    """Return where to draw anew, (1, 1, H, W) bool at the size of the latents.

    Args:
        picture: (height, width) of the whole picture that it is of.
        size: (height, width) of what is drawn.

    Raises:
        ValueError: it cannot be read, does not say where, or has another shape than the picture and what is drawn.
    """
    try:
        mask, note = decode_mask(read_input(Path(path), limit=MAX_PICTURE))
    except DECODE_ERRORS as error:
        raise ValueError(f"mask={path} cannot be read as a mask: {describe_error(error)}") from error
    own = (mask.height, mask.width)
    if not is_alike(own, picture) and not is_alike(own, size):
        raise ValueError(
            f"mask={path} is {own[1]}x{own[0]} pixels, the picture {picture[1]}x{picture[0]}: they "
            f"must have the same shape; or give a mask of the shape of what is drawn, {size[1]}x{size[0]}"
        )
    if note is not None:
        print(f"note: mask={path} {note}")
    white = torch.from_numpy(render_view(mask, centre_view(own, size))).float().mean(-1)[None, None] / 127.5 - 1
    anew = torch.nn.functional.interpolate(white, size=latents, mode="area") > 0
    if anew.all():
        print(f"warning: mask={path} is white everywhere, so the whole picture is drawn anew")
    elif not anew.any():
        print(f"warning: mask={path} is black everywhere, so nothing of the picture is drawn anew")
    return anew


def is_alike(one: Size, other: Size) -> bool:
    """Return whether two (height, width) are of one shape, to a pixel that was rounded."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= sum(other)
