"""Encode pictures as `data:` addresses that a page contains."""

import base64
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageOps

THUMBNAIL_SIDE = 160  # pixels
LARGEST_PICTURE = (1600, 8000)  # pixels, of a picture at its own size


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture's `data:` address, and its size in pixels."""

    address: Markup
    width: int
    height: int


def embed_thumbnail(picture: Image.Image | None) -> EmbeddedPicture | None:
    """Return a decoded picture, at most `THUMBNAIL_SIDE` pixels a side; None if there is none, or its pixels are damaged."""
    small = None if picture is None else _within(picture, (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    if small is None:
        return None
    content = BytesIO()
    small.save(content, "JPEG", quality=85, subsampling="4:4:4", optimize=True)
    return _encode_address(content, "jpeg", small)


def embed_picture(
    picture: bytes | Image.Image, *, most: tuple[int, int] = LARGEST_PICTURE, lossless: bool = False
) -> EmbeddedPicture | None:
    """Return a picture at its own size, reduced to `most` pixels (width, height); None if it cannot be decoded."""
    colour = _within(picture, most)
    if colour is None:
        return None
    content = BytesIO()
    colour.save(content, "WEBP", quality=90, method=4, lossless=lossless)
    return _encode_address(content, "webp", colour)


def _encode_address(content: BytesIO, kind: str, picture: Image.Image) -> EmbeddedPicture:
    address = f"data:image/{kind};base64," + base64.b64encode(content.getvalue()).decode()
    return EmbeddedPicture(Markup(address), *picture.size)


def _within(picture: bytes | Image.Image, most: tuple[int, int]) -> Image.Image | None:
    try:
        return _small(Image.open(BytesIO(picture)) if isinstance(picture, bytes) else picture.copy(), most)
    except Exception:  # Pillow may raise any class for a damaged file, and reports are about such files
        return None


def _small(picture: Image.Image, most: tuple[int, int]) -> Image.Image:
    picture.draft(None, (2 * most[0], 2 * most[1]))
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):  # 16-bit grey, which convert() would clip
        upright = Image.fromarray((np.asarray(upright) / 257).clip(0, 255).round().astype(np.uint8))
    if upright.has_transparency_data:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    colour = upright.convert("RGB")
    colour.thumbnail(most)
    colour.info.clear()  # otherwise the JPEG would contain the file's comment and colour profile
    return colour
