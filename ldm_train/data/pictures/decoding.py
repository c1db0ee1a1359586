"""Decode a picture to the 8-bit RGB values that an encoder gets: upright, sRGB, opaque; then render views of it."""

import numpy as np
from PIL import Image

from ldm_train.data.pictures.colour import background_colour, colour_mode, embedded_profile, to_srgb
from ldm_train.data.pictures.crops import View
from ldm_train.data.pictures.headers import (
    DECODE_ERRORS,
    MAX_PIXELS,
    has_chunk,
    open_picture,
    read_orientation,
    require_format,
)
from ldm_train.util.inputs import describe_error
from ldm_train.util.text import first_line

__all__ = [
    "DECODE_ERRORS",
    "ENCODING_VERSION",
    "MAX_PIXELS",
    "background_colour",
    "decode_picture",
    "describe_decode_error",
    "find_profile_problem",
    "has_more_frames",
    "read_upright_size",
    "render_view",
]

# Version of the code that turns bytes into an encoder's input; part of the names of cached rows.
ENCODING_VERSION: int = 2

TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_RESIZED = 16  # times a view's area, of a whole resized picture in memory


def read_upright_size(content: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return the (height, width) that `decode_picture` will return, from the header.

    Raises:
        DECODE_ERRORS: it is not a picture, or one that `decode_picture` refuses because of its header.
    """
    with open_picture(content, max_pixels) as picture:
        width, height = picture.size
        return (width, height) if read_orientation(picture, content) in (5, 6, 7, 8) else (height, width)


def find_profile_problem(content: bytes, *, max_pixels: int = MAX_PIXELS) -> str | None:
    """Return why `decode_picture` ignores the ICC profile, from the header; None if it is applied, or there is none.

    Raises:
        DECODE_ERRORS: as `read_upright_size`.
    """
    with open_picture(content, max_pixels) as picture:
        return embedded_profile(picture, colour_mode(picture.mode)).problem


def has_more_frames(content: bytes, *, max_pixels: int = MAX_PIXELS) -> bool:
    """Return whether a file has further pages or frames than the first, without decoding or counting them."""
    try:
        kind = require_format(content)
        if kind.plugin in ("PNG", "JPEG"):  # the further pictures of a JPEG are previews and depth maps
            return kind.plugin == "PNG" and has_chunk(content, b"acTL")
        with open_picture(content, max_pixels) as picture:
            return bool(getattr(picture, "is_animated", False))
    except DECODE_ERRORS:  # a damaged second frame does not keep the first from being used
        return False


def decode_picture(content: bytes, *, background: str = "white", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a picture, or an animation's first frame, upright, in sRGB (mode RGB), and on the background if transparent.

    Raises:
        DECODE_ERRORS: it is not a picture, is damaged or larger than `max_pixels`, or has values of unknown range.
        ValueError: `background` is not an opaque colour.
    """
    ground = background_colour(background)
    with open_picture(content, max_pixels) as picture:
        turn = TRANSPOSES.get(read_orientation(picture, content))
        picture.load()
        colour = to_srgb(picture, ground)
    return colour if turn is None else colour.transpose(turn)


def render_view(picture: Image.Image, view: View, *, background: str = "white") -> np.ndarray:
    """Return a view of an RGB picture, uint8 (height, width, 3), resized by bicubic interpolation with antialiasing.

    Args:
        background: the colour around a picture that is smaller than the view.
    """
    size = (view.resized_width, view.resized_height)
    if view.top < 0 or view.left < 0:
        canvas = Image.new("RGB", (view.width, view.height), background_colour(background))
        whole = picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)
        canvas.paste(whole, (-view.left, -view.top))
        return render_view(canvas, View(view.height, view.width, 0, 0, view.height, view.width, view.mirrored))
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    if box[2] > size[0] or box[3] > size[1]:
        raise ValueError(f"crop makes a view that reaches out of the resized picture of {size[0]}x{size[1]} pixels: {view}")
    if picture.size == size:
        picture = picture.crop(box)
    elif size[0] * size[1] <= MAX_RESIZED * view.width * view.height:
        picture = picture.resize(size, Image.Resampling.BICUBIC).crop(box)
    else:  # a resized picture of 1x30000 pixels would not fit in memory; Pillow's float32 box only rounds differently
        picture = picture.resize((view.width, view.height), Image.Resampling.BICUBIC, box=scale_box(box, size, picture.size))
    pixels = np.array(picture)
    return np.ascontiguousarray(pixels[:, ::-1]) if view.mirrored else pixels


def scale_box(
    box: tuple[int, int, int, int], size: tuple[int, int], to: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return a box of a picture of one size (width, height) in the coordinates of another size."""
    left, right = (min(x * to[0] / size[0], to[0]) for x in (box[0], box[2]))
    top, bottom = (min(y * to[1] / size[1], to[1]) for y in (box[1], box[3]))
    return left, top, right, bottom


def describe_decode_error(error: BaseException) -> str:
    """Return why decoding failed, on one line, for reports."""
    reason = first_line(error) if str(error) else describe_error(error)
    return f"the picture does not decode: {reason}"
