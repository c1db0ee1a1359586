"""Read masks for inpainting, which are white where to generate: a file's brightness or transparency, whichever is a mask."""

import numpy as np
from PIL import Image

from ldm_train.data.pictures.colour import separate_alpha
from ldm_train.data.pictures.decoding import MAX_PIXELS, TRANSPOSES
from ldm_train.data.pictures.headers import open_picture, read_orientation

SAME_COLOUR = 8  # of 255: difference of equal colours by an editor's rounding


def decode_mask(content: bytes) -> tuple[Image.Image, str | None]:
    """Return a mask, upright and grey in mode RGB, and a note on how it was read, None for the usual way.

    A mask painted on a transparent layer has one colour, so its transparency is the mask.

    Raises:
        DECODE_ERRORS: it is not a picture, is completely transparent, or both its brightness and its transparency vary, so
            either could be the mask.
    """
    with open_picture(content, MAX_PIXELS) as picture:
        turn = TRANSPOSES.get(read_orientation(picture, content))
        picture.load()
        colour, alpha = separate_alpha(picture)
    mask, note = colour.convert("RGB").convert("L"), None
    if alpha is not None:
        brightness, opacity = np.asarray(mask), np.asarray(alpha)
        if not opacity.any():
            raise ValueError("it is transparent everywhere; save it as black and white, white where to draw anew")
        if opacity.min() < opacity.max():
            if np.ptp(brightness[opacity > 0]) > SAME_COLOUR:
                raise ValueError(
                    "both its brightness and its transparency vary, and either could be the mask; "
                    "save it without transparency, as black and white, white where to draw anew"
                )
            mask, note = alpha, "has one colour, so its transparency is the mask: what is opaque is drawn anew"
    upright = mask if turn is None else mask.transpose(turn)
    return upright.convert("RGB"), note


def has_transparency(content: bytes) -> bool:
    """Return whether a picture has pixels that are not opaque.

    Raises:
        DECODE_ERRORS: it is not a picture.
    """
    with open_picture(content, MAX_PIXELS) as picture:
        picture.load()
        alpha = separate_alpha(picture)[1]
    return alpha is not None and bool(np.asarray(alpha).min() < 255)
