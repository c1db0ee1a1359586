"""Any of Pillow's modes to sRGB: grey, palettes, 16 bits, CMYK and Lab, embedded ICC profiles, transparency.

A profile is followed by lcms with its perceptual intent. A PNG's gAMA and cHRM chunks are not read.
"""

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageColor

PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
MAX_PROFILE = 8 * 2**20  # bytes; printers' largest have about 3 MiB
KEPT = 16  # profiles, by their bytes
PROBES = np.array([0, 32, 64, 128, 192, 255], dtype=np.uint8)


class Profile(NamedTuple):
    """How a profile is followed: by `transform` from `mode` to sRGB, None to do nothing; `problem`: why it is ignored."""

    mode: str
    transform: ImageCms.ImageCmsTransform | None
    problem: str | None = None


def background_colour(background: str) -> tuple[int, int, int]:
    """A colour's name or #rrggbb as red, green and blue.

    Raises:
        ValueError: Pillow does not know it, or it is not opaque.
    """
    try:
        red, green, blue, *alpha = ImageColor.getrgb(background)
    except ValueError as error:
        raise ValueError(f"background={background!r} is no colour; write a name such as 'white' or '#rrggbb'") from error
    if alpha:
        raise ValueError(f"background={background!r} has an alpha channel, but must be opaque; write '#rrggbb'")
    return red, green, blue


def to_srgb(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """A loaded picture of any mode but "F" as RGB on the background.

    Raises:
        ValueError: 32 bits of grey beyond the range of 16.
    """
    colour, alpha = separate(picture)
    profile = embedded_profile(picture, colour.mode)
    if profile.transform is not None:
        converted = profile.transform.apply(as_mode(colour, profile.mode))
    else:
        converted = as_mode(colour, "RGB")
    if alpha is None:
        return converted
    canvas = Image.new("RGB", picture.size, background)
    canvas.paste(converted, mask=alpha)
    return canvas


def separate(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colour in mode L, RGB or CMYK, and alpha in mode L where there is any."""
    if picture.mode.startswith("I"):
        return separate_deep_grey(picture)
    mode = colour_mode(picture.mode)
    if not picture.has_transparency_data:
        return as_mode(picture, mode), None
    whole = as_mode(picture, "LA" if mode == "L" else "RGBA")
    return whole.convert(mode), whole.getchannel("A")


def as_mode(picture: Image.Image, mode: str) -> Image.Image:
    """Return the picture in this mode: itself if it has it, where Pillow's convert() would copy up to 0.7 GB."""
    return picture if picture.mode == mode else picture.convert(mode)


def separate_deep_grey(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Grey of 16 bits or more, which Pillow's convert() would clip and not scale."""
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32 bits of grey beyond the range of 16 have no known white; save the picture with 16 or 8 bits")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if not isinstance(transparent := picture.info.get("transparency"), int):
        return grey, None
    return grey, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))


def colour_mode(mode: str) -> str:
    """What a picture of this mode is converted to before its profile is followed."""
    if mode == "CMYK":
        return mode
    return "L" if mode in ("1", "L", "LA", "La") or mode.startswith("I") else "RGB"


def embedded_profile(picture: Image.Image, mode: str) -> Profile:
    """What to do about the picture's profile, its colours being in `mode`: L, RGB or CMYK."""
    content = picture.info.get("icc_profile")
    if not content or picture.mode == "LAB":  # Lab says by itself what its colours are
        return Profile(mode, None)
    if len(content) > MAX_PROFILE:
        return Profile(mode, None, f"its ICC profile has {len(content):,} bytes; at most {MAX_PROFILE:,} are read")
    return read_profile(content, mode)


@lru_cache(maxsize=KEPT)
def read_profile(content: bytes, mode: str) -> Profile:
    """Parse a profile; kept, since a collection's pictures share a few."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = profile.profile.xcolor_space.strip()
        profile_mode = PROFILE_MODES.get(space)
        if profile_mode is None or (profile_mode != mode and (profile_mode, mode) != ("RGB", "L")):
            return Profile(mode, None, f"its ICC profile is for {space}, its colours are {mode}")
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), profile_mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        return Profile(mode, None, f"its ICC profile is broken: {' '.join(str(error).split())}")
    return Profile(profile_mode, None if is_srgb(transform, profile_mode) else transform)


def is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a profile changes nothing beyond rounding: sRGB's many copies differ by that, and by their names."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.stack(np.meshgrid(*[PROBES] * channels), axis=-1).reshape(-1, channels)
    probe = Image.frombytes(mode, (len(values), 1), values.tobytes())
    change = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    return bool(np.abs(change).max() <= 2)
