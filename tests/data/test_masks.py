"""Masks: what says where to draw anew, and what is refused because two channels might."""

import io

import numpy as np
import pytest
from PIL import Image

from ldm_train.data.pictures.mask_files import decode_mask, has_transparency

HALF = np.zeros((16, 16), dtype=np.uint8)
HALF[:, 8:] = 255
WHITE, BLACK = np.full_like(HALF, 255), np.zeros_like(HALF)


def encoded(picture: Image.Image, format: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **settings)
    return buffer.getvalue()


def layers(*channels: np.ndarray, mode: str) -> Image.Image:
    return Image.merge(mode, [Image.fromarray(channel) for channel in channels])


def palette() -> bytes:
    """Two colours, of which the first is transparent."""
    picture = Image.fromarray((HALF > 0).astype(np.uint8)).convert("P")
    picture.putpalette([255, 0, 0] * 2 + [0, 0, 0] * 254)
    return encoded(picture, transparency=0)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


BY_BRIGHTNESS = {
    "grey": encoded(Image.fromarray(HALF)),
    "black and white": encoded(Image.fromarray(HALF).convert("1")),
    "16 bits": encoded(Image.fromarray(HALF.astype(np.uint16) * 257)),
    "colour": encoded(layers(HALF, HALF, HALF, mode="RGB")),
    "CMYK": encoded(layers(HALF, HALF, HALF, mode="RGB").convert("CMYK"), "TIFF"),
    "opaque": encoded(layers(HALF, HALF, HALF, WHITE, mode="RGBA")),
    "half transparent everywhere": encoded(layers(HALF, WHITE // 2, mode="LA")),
    "rotated": encoded(Image.fromarray(HALF).rotate(90), "PNG", exif=exif(6)),
}
BY_TRANSPARENCY = {
    "white strokes": encoded(layers(HALF, HALF, HALF, HALF, mode="RGBA")),
    "white with alpha": encoded(layers(WHITE, HALF, mode="LA")),
    "one colour": encoded(layers(WHITE, BLACK, BLACK, HALF, mode="RGBA")),
    "a palette": palette(),
}


@pytest.mark.parametrize("kind", BY_BRIGHTNESS)
def test_what_is_white_is_drawn_anew(kind: str) -> None:
    mask, note = decode_mask(BY_BRIGHTNESS[kind])
    assert np.array_equal(np.asarray(mask)[..., 0] > 127, HALF > 0)
    assert note is None


@pytest.mark.parametrize("kind", BY_TRANSPARENCY)
def test_of_one_colour_what_is_opaque_is_drawn_anew_and_that_is_said(kind: str) -> None:
    mask, note = decode_mask(BY_TRANSPARENCY[kind])
    assert np.array_equal(np.asarray(mask)[..., 0] > 127, HALF > 0)
    assert note is not None
    assert "opaque" in note
    assert has_transparency(BY_TRANSPARENCY[kind])


@pytest.mark.parametrize(
    "picture", [layers(HALF, HALF, HALF, HALF.T, mode="RGBA"), layers(HALF, BLACK, mode="LA")], ids=["both", "nothing"]
)
def test_what_could_be_meant_either_way_is_refused(picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="black and white"):
        decode_mask(encoded(picture))


def test_an_opaque_picture_has_no_transparency() -> None:
    assert not has_transparency(BY_BRIGHTNESS["opaque"])
    assert not has_transparency(BY_BRIGHTNESS["CMYK"])
