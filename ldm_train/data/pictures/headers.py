"""A picture's header: what kind of file it is, whether it can be used, and how it is turned. Pixels come later."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from ldm_train.data.pictures.structure import check_structure
from ldm_train.util.inputs import READ_ERRORS

MAX_PIXELS = 178_956_970  # where Pillow itself refuses: 0.7 GB in memory
DECODE_ERRORS = (*READ_ERRORS, SyntaxError, Image.DecompressionBombError)
DESCRIBED = (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError)  # their messages name the damage

# Raster formats that Pillow decodes by itself; EPS would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000", "PPM", "QOI")

# The first bytes in lower case of what Pillow did not take for a picture, and what to say of it.
BEGINNINGS = {
    b"<!doctype html": ": it is an HTML page, as a failed download leaves",
    b"<html": ": it is an HTML page, as a failed download leaves",
    b"version https://git-lfs": ": it is a Git LFS pointer; run git lfs pull",
} | dict.fromkeys((b"\x89png", b"\xff\xd8\xff", b"gif8", b"riff", b"ii*\0", b"mm\0*"), ": its header is damaged")

ORIENTATION = 0x0112  # EXIF's tag
MAX_EXIF = 16 * 2**20  # bytes, of which one tag may claim all

# Pillow warns from half of MAX_PIXELS on, and a warning cannot be caught in one thread alone. `opened` has its own check,
# before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
Image.init()
AVAILABLE = tuple(name for name in FORMATS if name in Image.OPEN)  # AVIF depends on how Pillow was built


@contextmanager
def opened(content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The picture with its header read and found usable; whatever Pillow stumbles over meanwhile becomes a DECODE_ERROR."""
    if not content:
        raise ValueError("empty file")
    check_structure(content)
    try:
        with Image.open(io.BytesIO(content), formats=AVAILABLE) as picture:
            refuse_by_header(picture, max_pixels)
            yield picture
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"not a picture Pillow can read{beginning(content)}") from error
    except DESCRIBED:
        raise
    except Exception as error:  # damaged files lead Pillow's parsers to struct.error, KeyError, OverflowError and others
        raise ValueError(f"damaged: {type(error).__name__}: {error}") from error


def check_beginning(start: bytes) -> None:
    """Raise ValueError if a file with these first bytes is no picture, so that a large one need not be read."""
    if not any(accept is None or accept(start) for _, accept in (Image.OPEN[name] for name in AVAILABLE)):
        raise ValueError(f"not a picture Pillow can read{beginning(start)}")


def refuse_by_header(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise Image.DecompressionBombError(
            f"{width}x{height} pixels are more than max_pixels={max_pixels}; shrink the picture or raise the setting"
        )
    if width * height == 0:
        raise ValueError(f"{width}x{height} is no size of a picture")
    if picture.mode == "F":
        raise ValueError("floating-point values have no fixed range of brightness; save the picture with 8 or 16 bits")


def beginning(content: bytes) -> str:
    """What a file that is no picture looks like."""
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return ": it is an SVG drawing, which must be rendered to pixels first"
    if content[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return ": it is HEIC; convert it to JPEG or PNG"
    return next((reason for prefix, reason in BEGINNINGS.items() if start.startswith(prefix)), "")


def orientation(picture: Image.Image, content: bytes) -> int:
    """EXIF's number of how the picture is to be turned once decoded; 1, as it is, where its EXIF data is broken."""
    if picture.format == "TIFF":  # turned by Pillow
        return 1
    if picture.format == "PNG" and "exif" not in picture.info and has_chunk(content, b"eXIf"):
        picture.load()  # it stands behind the pixels
    if len(picture.info.get("exif", b"")) > MAX_EXIF:
        return 1
    try:
        return int(Image.Image.getexif(picture).get(ORIENTATION, 1))  # PNG's own getexif would decode the pixels
    except Exception:  # any of a parser's errors, and a warning made one: EXIF is not worth losing a picture
        return 1


def has_chunk(content: bytes, sought: bytes) -> bool:
    """Whether a PNG has a chunk of this name."""
    position = 8
    while position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if name == sought:
            return True
        position += 12 + length
    return False
