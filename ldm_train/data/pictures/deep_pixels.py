"""Read the pixels of a picture as they are stored: 16 bits where Pillow keeps 8, and numbers of labels, without colours.

Pillow unpacks 16 bits of RGB and RGBA to the high byte of each value. Unpacked as if the bytes were in the other order, the
same file gives the low bytes, so two passes give all 16 bits.
"""

import sys

import numpy as np
from PIL import Image

from ldm_train.data.pictures.headers import open_picture, read_orientation
from ldm_train.data.pictures.tiff_layout import read_tiff_layout

TIFF = (b"II", b"MM")
OTHER_ORDER = {
    ";16B": ";16L",
    ";16L": ";16B",
    ";16N": ";16B" if sys.byteorder == "little" else ";16L",  # the order of this machine
}
CONVERTED = {"La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "PA": "RGBA"}
READ_AS_STORED = ("1", "L", "LA", "RGB", "RGBA", "I;16", "I;16L", "I;16B")
GREY_WITH_ALPHA = "LA;16B"  # unpacked as four bytes of RGBA: high and low byte of grey, then of alpha


def read_pixels(content: bytes, *, max_pixels: int, labels: bool) -> tuple[np.ndarray, bool]:
    """Return upright pixels (H, W, C) of bool, uint8 or uint16, and whether the last channel is alpha.

    Colour profiles are not applied.

    Args:
        labels: return the numbers of a palette's colours instead of the colours.

    Raises:
        DECODE_ERRORS: it is not a picture, is damaged, too large, or has colours other than grey and RGB.
    """
    with open_picture(content, max_pixels) as picture:
        turn = read_orientation(picture, content)
        layouts = {str(layout) for layout in map(_unpacked_as, getattr(picture, "tile", ()))}
        pairs = layouts == {GREY_WITH_ALPHA}
        if pairs:
            _unpack_as(picture, {GREY_WITH_ALPHA: "RGBA"})
        picture.load()
        pixels, has_alpha = _read_mode(picture, labels=labels)
    if pairs:
        pixels = pixels[..., ::2].astype(np.uint16) << 8 | pixels[..., 1::2]
    elif pixels.shape[2] > 2 and any(layout[-4:] in OTHER_ORDER for layout in layouts):
        pixels = pixels.astype(np.uint16) << 8 | _read_low_bytes(content, max_pixels, layouts)
    return turn_upright(pixels, turn), has_alpha


def _read_low_bytes(content: bytes, max_pixels: int, layouts: set[str]) -> np.ndarray:
    if any(layout.startswith("RGBa") for layout in layouts):
        raise ValueError("its 16-bit colours are multiplied by alpha; save it without transparency")
    if content.startswith(TIFF) and (layout := read_tiff_layout(content)) is not None and layout.planar:
        raise ValueError("its 16-bit colours are in planes, which are not read; save it with interleaved colours")
    with open_picture(content, max_pixels) as picture:
        _unpack_as(picture, {layout: layout[:-4] + OTHER_ORDER[layout[-4:]] for layout in layouts})
        try:
            picture.load()
        except ValueError as error:
            raise ValueError(
                f"16 bits as {', '.join(layouts)} are not read; save it as PNG or as an array (.npy)"
            ) from error
        return np.asarray(picture)


def _unpacked_as(tile: object) -> object:
    """Return Pillow's name of how the bytes of a part of a file become pixels."""
    arguments = tile[3]  # type: ignore[index]
    return arguments[0] if isinstance(arguments, tuple) and arguments else arguments


def _unpack_as(picture: Image.Image, names: dict[str, str]) -> None:
    """Give the parts of a file other names of how they become pixels."""

    def renamed(arguments: object) -> object:
        return (names[arguments[0]], *arguments[1:]) if isinstance(arguments, tuple) else names[str(arguments)]

    picture.tile = [tile._replace(args=renamed(tile.args)) for tile in picture.tile]  # type: ignore[attr-defined]


def _read_mode(picture: Image.Image, *, labels: bool) -> tuple[np.ndarray, bool]:
    """Return the pixels (H, W, C) of a loaded picture, and whether the last channel is alpha."""
    mode = picture.mode
    if mode == "I":
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("it has 32-bit values outside the 16-bit range; save it with 16 or 8 bits")
        return values.astype(np.uint16)[..., None], False
    if mode == "P" and not labels:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif mode in CONVERTED:
        picture = picture.convert(CONVERTED[mode])
    elif mode not in (*READ_AS_STORED, "P"):
        raise ValueError(f"its colours are {mode}; save it as grey or RGB, or as an array (.npy)")
    pixels = np.asarray(picture)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    return pixels.reshape(*pixels.shape[:2], -1), picture.mode in ("LA", "RGBA")


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels (H, W, C) as EXIF's orientation, 1 to 8, says that they are seen."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::rows, ::columns]
