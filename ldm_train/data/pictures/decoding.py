"""A picture's bytes to the 8-bit RGB values that an encoder sees: upright, sRGB, opaque; then resized, cut and mirrored."""

import numpy as np
from PIL import Image

from ldm_train.data.pictures.colour import background_colour, colour_mode, embedded_profile, to_srgb
from ldm_train.data.pictures.crops import View
from ldm_train.data.pictures.headers import DECODE_ERRORS, MAX_PIXELS, opened, orientation
from ldm_train.util.inputs import describe_error

__all__ = [
    "DECODE_ERRORS",
    "ENCODING_VERSION",
    "MAX_PIXELS",
    "background_colour",
    "decode",
    "decode_problem",
    "profile_problem",
    "render",
    "upright_size",
]

# Version of what turns bytes into an encoder's input; goes into the keys of latent caches.
ENCODING_VERSION: int = 1

TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MUCH = 16  # times a view's area: what a resized picture may take in memory


def upright_size(content: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) as `decode` will give them, from the header alone.

    Raises:
        DECODE_ERRORS: it is no picture, or one that `decode` would refuse by its header.
    """
    with opened(content, max_pixels) as picture:
        width, height = picture.size
        return (width, height) if orientation(picture, content) in (5, 6, 7, 8) else (height, width)


def profile_problem(content: bytes, *, max_pixels: int = MAX_PIXELS) -> str | None:
    """Why `decode` ignores the embedded ICC profile, from the header alone; None where it is followed, or there is none.

    Raises:
        DECODE_ERRORS: as `upright_size`.
    """
    with opened(content, max_pixels) as picture:
        return embedded_profile(picture, colour_mode(picture.mode)).problem


def decode(content: bytes, *, background: str = "white", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture as upright sRGB in mode RGB, transparency put on the background; an animation's first frame.

    Raises:
        DECODE_ERRORS: it is no picture, is damaged, cut short or larger than `max_pixels`, or holds values without a known
            range; a ValueError also where `background` is no opaque colour.
    """
    ground = background_colour(background)
    with opened(content, max_pixels) as picture:
        turn = TRANSPOSES.get(orientation(picture, content))
        picture.load()
        colour = to_srgb(picture, ground)
    return colour if turn is None else colour.transpose(turn)


def render(picture: Image.Image, view: View) -> np.ndarray:
    """What the view shows of an RGB picture, (height, width, 3), uint8; resized by antialiased bicubic interpolation."""
    size = (view.resized_width, view.resized_height)
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    assert min(box) >= 0
    assert box[2] <= size[0]
    assert box[3] <= size[1]
    if picture.size == size:
        picture = picture.crop(box)
    elif size[0] * size[1] <= MUCH * view.width * view.height:
        picture = picture.resize(size, Image.Resampling.BICUBIC).crop(box)
    else:  # a strip of 1 x 30000 pixels would not fit in memory; the box's single precision costs a rounding here and there
        picture = picture.resize((view.width, view.height), Image.Resampling.BICUBIC, box=scaled(box, size, picture.size))
    pixels = np.array(picture)
    return np.ascontiguousarray(pixels[:, ::-1]) if view.mirrored else pixels


def scaled(box: tuple[int, int, int, int], size: tuple[int, int], to: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box in a picture of one size, (width, height), in the coordinates of another."""
    left, right = (min(x * to[0] / size[0], to[0]) for x in (box[0], box[2]))
    top, bottom = (min(y * to[1] / size[1], to[1]) for y in (box[1], box[3]))
    return left, top, right, bottom


def decode_problem(error: BaseException) -> str:
    """What a failed decoding is called in reports, on one line."""
    reason = str(error).splitlines()[0] if str(error) else describe_error(error)
    return f"the picture does not decode: {reason}"
