"""Convert pictures of all of Pillow's modes to sRGB: grey, palettes, 16 bits, CMYK, Lab, ICC profiles, transparency.

Profiles are applied by lcms with their perceptual intent. Colours that a file gives by numbers come as a profile too.
"""

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageColor

PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
MAX_PROFILE = 8 * 2**20  # bytes; the largest profiles of printers have about 3 MiB
CACHED_PROFILES = 16  # by the profiles' bytes
PROBES = np.array([0, 32, 64, 128, 192, 255], dtype=np.uint8)


class ColourProfile(NamedTuple):
    """How to apply a profile.

    Args:
        mode: the mode that `transform` takes.
        transform: to sRGB; None if the values stay as they are.
        problem: why the profile is ignored, None if it is not.
    """

    mode: str
    transform: ImageCms.ImageCmsTransform | None
    problem: str | None = None


def background_colour(background: str) -> tuple[int, int, int]:
    """Return the red, green and blue of a colour's name or #rrggbb.

    Raises:
        ValueError: Pillow does not know the colour, or it is not opaque.
    """
    try:
        red, green, blue, *alpha = ImageColor.getrgb(background)
    except ValueError as error:
        raise ValueError(f"background={background!r} is not a colour; write a name such as 'white', or '#rrggbb'") from error
    if alpha:
        raise ValueError(f"background={background!r} has an alpha channel, but must be opaque; write '#rrggbb'")
    return red, green, blue


def to_srgb(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return a loaded picture of any mode except "F" as RGB on the background.

    Raises:
        ValueError: it has 32-bit grey values outside the 16-bit range.
    """
    colour, alpha = separate_alpha(picture)
    profile = embedded_profile(picture, colour.mode)
    if profile.transform is not None:
        converted = profile.transform.apply(convert_mode(colour, profile.mode))
    else:
        converted = convert_mode(colour, "RGB")
    if alpha is None:
        return converted
    canvas = Image.new("RGB", picture.size, background)
    canvas.paste(converted, mask=alpha)
    return canvas


def separate_alpha(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colour in mode L, RGB or CMYK, and the alpha channel in mode L, None if there is none."""
    if picture.mode.startswith("I"):
        return separate_deep_grey(picture)
    mode = colour_mode(picture.mode)
    if not picture.has_transparency_data:
        return convert_mode(picture, mode), None
    with_alpha = convert_mode(picture, "LA" if mode == "L" else "RGBA")
    return with_alpha.convert(mode), with_alpha.getchannel("A")


def convert_mode(picture: Image.Image, mode: str) -> Image.Image:
    """Return the picture in this mode, without a copy (up to 0.7 GB) if it has this mode already."""
    return picture if picture.mode == mode else picture.convert(mode)


def separate_deep_grey(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return grey of 16 bits or more as 8 bits, and its alpha channel; Pillow's convert() would clip and not scale it."""
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            "32-bit grey values outside the 16-bit range have no known white; save the picture with 16 or 8 bits"
        )
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if not isinstance(transparent := picture.info.get("transparency"), int):
        return grey, None
    return grey, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))


def colour_mode(mode: str) -> str:
    """Return the mode that a picture of this mode is converted to before its profile is applied."""
    if mode == "CMYK":
        return mode
    return "L" if mode in ("1", "L", "LA", "La") or mode.startswith("I") else "RGB"


def embedded_profile(picture: Image.Image, mode: str) -> ColourProfile:
    """Return how to apply a picture's profile to its colours, which are in `mode`: L, RGB or CMYK."""
    content = picture.info.get("icc_profile")
    if not content or picture.mode == "LAB":  # Lab colours need no profile
        return ColourProfile(mode, None)
    if len(content) > MAX_PROFILE:
        return ColourProfile(mode, None, f"its ICC profile has more than the {MAX_PROFILE:,} bytes that are read")
    return read_profile(content, mode)


@lru_cache(maxsize=CACHED_PROFILES)
def read_profile(content: bytes, mode: str) -> ColourProfile:
    """Parse a profile. Results are cached, since the pictures of a collection share a few profiles."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = profile.profile.xcolor_space.strip()
        profile_mode = PROFILE_MODES.get(space)
        if profile_mode is None or (profile_mode != mode and (profile_mode, mode) != ("RGB", "L")):
            return ColourProfile(mode, None, f"its ICC profile is for {space}, its colours are {mode}")
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), profile_mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        return ColourProfile(mode, None, f"its ICC profile is broken: {' '.join(str(error).split())}")
    return ColourProfile(profile_mode, None if is_srgb(transform, profile_mode) else transform)


def is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether a profile changes nothing except by rounding, as the many copies of the sRGB profile do."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.stack(np.meshgrid(*[PROBES] * channels), axis=-1).reshape(-1, channels)
    probe = Image.frombytes(mode, (len(values), 1), values.tobytes())
    change = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    return bool(np.abs(change).max() <= 2)
