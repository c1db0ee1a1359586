"""Pictures small enough to travel inside a page."""

import base64
import math
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageOps

SIDE = 160  # pixels
MOST_PIXELS = 178_956_970  # of a file that is decoded; Pillow's own limit is off where data/opening.py is imported
WHOLE = (1600, 8000)  # of a picture shown as large as it is


@dataclass(frozen=True)
class Embedded:
    """A `data:` address, and the size in pixels."""

    address: Markup
    width: int
    height: int


def embedded(picture: bytes | Image.Image | None) -> Embedded | None:
    """The picture upright and on white, as training sees it, at most `SIDE` pixels a side; None if it does not decode.

    It is encoded anew, so that nothing of a stranger's file but its pixels gets into the page.
    """
    small = None if picture is None else _within(picture, (SIDE, SIDE))
    if small is None:
        return None
    content = BytesIO()
    small.save(content, "JPEG", quality=85, subsampling="4:4:4", optimize=True)
    return _embedded(content, "jpeg", small)


def whole(picture: bytes | Image.Image, *, most: tuple[int, int] = WHOLE) -> Embedded | None:
    """The picture at its own size, at most so many pixels wide and high; None if it does not decode."""
    colour = _within(picture, most)
    if colour is None:
        return None
    content = BytesIO()
    colour.save(content, "WEBP", quality=90, method=4)
    return _embedded(content, "webp", colour)


def _embedded(content: BytesIO, kind: str, picture: Image.Image) -> Embedded:
    address = f"data:image/{kind};base64," + base64.b64encode(content.getvalue()).decode()
    return Embedded(Markup(address), *picture.size)


def _within(picture: bytes | Image.Image, most: tuple[int, int]) -> Image.Image | None:
    try:
        opened = Image.open(BytesIO(picture)) if isinstance(picture, bytes) else picture.copy()
        too_large = isinstance(picture, bytes) and math.prod(opened.size) > MOST_PIXELS
        return None if too_large else _small(opened, most)
    except Exception:  # Pillow's readers raise whatever a broken file makes of them, and the page is about such files
        return None


def _small(picture: Image.Image, most: tuple[int, int]) -> Image.Image:
    picture.draft(None, (2 * most[0], 2 * most[1]))
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):  # 16 bits of grey, which convert() would clip
        upright = Image.fromarray((np.asarray(upright) / 257).clip(0, 255).round().astype(np.uint8))
    if upright.has_transparency_data:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    colour = upright.convert("RGB")
    colour.thumbnail(most)
    colour.info.clear()  # or JPEG would carry the file's comment and colour profile along
    return colour
