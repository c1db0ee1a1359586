"""Pictures small enough to travel inside a page."""

import base64
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageOps

SIDE = 160  # pixels


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
    if picture is None:
        return None
    try:
        small = _small(Image.open(BytesIO(picture)) if isinstance(picture, bytes) else picture.copy())
    except Exception:  # Pillow's readers raise whatever a broken file makes of them, and the page is about such files
        return None
    content = BytesIO()
    small.save(content, "JPEG", quality=85, subsampling="4:4:4", optimize=True)
    return Embedded(Markup("data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()), *small.size)


def _small(picture: Image.Image) -> Image.Image:
    picture.draft(None, (2 * SIDE, 2 * SIDE))
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):  # 16 bits of grey, which convert() would clip
        upright = Image.fromarray((np.asarray(upright) / 257).clip(0, 255).round().astype(np.uint8))
    if upright.has_transparency_data:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    colour = upright.convert("RGB")
    colour.thumbnail((SIDE, SIDE))
    colour.info.clear()  # or JPEG would carry the file's comment and colour profile along
    return colour
