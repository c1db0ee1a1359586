"""Masks of pictures, white where to draw anew: the one channel of a file that says so, or a refusal where two might."""

import numpy as np
from PIL import Image

from ldm_train.data.pictures.colour import separate
from ldm_train.data.pictures.decoding import MAX_PIXELS, TRANSPOSES
from ldm_train.data.pictures.headers import opened, orientation

SAME = 8  # of 255: levels that an editor's rounding may put between equal colours


def decode_mask(content: bytes) -> tuple[Image.Image, str | None]:
    """Return a mask, upright and grey but in mode RGB, and what is to be known of how it was read.

    A mask that was painted on a transparent layer has one colour, and its transparency says where.

    Raises:
        DECODE_ERRORS: it is no picture, nothing of it is visible, or both its brightness and its transparency differ from
            place to place, so that either could be meant.
    """
    with opened(content, MAX_PIXELS) as picture:
        turn = TRANSPOSES.get(orientation(picture, content))
        picture.load()
        colour, alpha = separate(picture)
    mask, note = colour.convert("RGB").convert("L"), None
    if alpha is not None:
        brightness, opacity = np.asarray(mask), np.asarray(alpha)
        if not opacity.any():
            raise ValueError("it is transparent everywhere; save it as black and white, white where to draw anew")
        if opacity.min() < opacity.max():
            if np.ptp(brightness[opacity > 0]) > SAME:
                raise ValueError(
                    "both its brightness and its transparency differ from place to place, and either could be the mask; "
                    "save it without transparency, as black and white, white where to draw anew"
                )
            mask, note = alpha, "has one colour, so its transparency is the mask: what is opaque is drawn anew"
    upright = mask if turn is None else mask.transpose(turn)
    return upright.convert("RGB"), note


def has_transparency(content: bytes) -> bool:
    """Return whether something of a picture is not opaque.

    Raises:
        DECODE_ERRORS: it is no picture.
    """
    with opened(content, MAX_PIXELS) as picture:
        picture.load()
        alpha = separate(picture)[1]
    return alpha is not None and bool(np.asarray(alpha).min() < 255)
