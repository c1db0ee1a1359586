"""Open pictures and check their headers: format, size, structure and orientation, before any pixel is decoded."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from ldm_train.data.pictures.structure import check_structure
from ldm_train.util.inputs import READ_ERRORS

MAX_PIXELS = 178_956_970  # Pillow's own limit: 0.7 GB in memory
DECODE_ERRORS = (*READ_ERRORS, SyntaxError, Image.DecompressionBombError)
DESCRIBED = (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError)  # their messages name the damage

# Raster formats that Pillow decodes by itself; EPS would start Ghostscript.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000", "PPM", "QOI")

# The first bytes, in lower case, of files that Pillow cannot read, and what to add to the message.
BEGINNINGS = {
    b"<!doctype html": ": it is an HTML page, as a failed download leaves",
    b"<html": ": it is an HTML page, as a failed download leaves",
    b"version https://git-lfs": ": it is a Git LFS pointer; run git lfs pull",
} | dict.fromkeys((b"\x89png", b"\xff\xd8\xff", b"gif8", b"riff", b"ii*\0", b"mm\0*"), ": its header is damaged")

ORIENTATION = 0x0112  # EXIF's tag
MAX_EXIF = 16 * 2**20  # bytes, of which one tag may claim all

# Pillow warns from half of MAX_PIXELS on, and warnings cannot be caught in only one thread. `open_picture` checks the
# size itself, before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
Image.init()
AVAILABLE = tuple(name for name in PICTURE_FORMATS if name in Image.OPEN)  # AVIF depends on how Pillow was built


@contextmanager
def open_picture(content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Open a picture and check its header; whatever Pillow raises until the block ends becomes one of `DECODE_ERRORS`."""
    if not content:
        raise ValueError("empty file")
    check_structure(content)
    try:
        with Image.open(io.BytesIO(content), formats=AVAILABLE) as picture:
            check_header(picture, max_pixels)
            yield picture
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"not a picture Pillow can read{describe_beginning(content)}") from error
    except DESCRIBED:
        raise
    except Exception as error:  # damaged files lead Pillow's parsers to struct.error, KeyError, OverflowError and others
        raise ValueError(f"damaged: {type(error).__name__}: {error}") from error


def check_beginning(start: bytes) -> None:
    """Raise ValueError if a file with these first bytes is not a picture, so that a large one need not be read."""
    if not any(accept is None or accept(start) for _, accept in (Image.OPEN[name] for name in AVAILABLE)):
        raise ValueError(f"not a picture Pillow can read{describe_beginning(start)}")


def check_header(picture: Image.Image, max_pixels: int) -> None:
    """Raise one of `DECODE_ERRORS` if a picture is too large or empty, or has floating-point values."""
    width, height = picture.size
    if width * height > max_pixels:
        raise Image.DecompressionBombError(
            f"{width}x{height} pixels are more than max_pixels={max_pixels}; shrink the picture or raise the setting"
        )
    if width * height == 0:
        raise ValueError(f"its size is {width}x{height} pixels; expected at least 1x1")
    if picture.mode == "F":
        raise ValueError("floating-point values have no fixed range of brightness; save the picture with 8 or 16 bits")


def describe_beginning(content: bytes) -> str:
    """Return what a file that is not a picture looks like, to append to a message."""
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return ": it is an SVG drawing, which must be rendered to pixels first"
    if content[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return ": it is HEIC; convert it to JPEG or PNG"
    return next((reason for prefix, reason in BEGINNINGS.items() if start.startswith(prefix)), "")


def read_orientation(picture: Image.Image, content: bytes) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (not turned) if the EXIF data is damaged."""
    if picture.format == "TIFF":  # Pillow turns it
        return 1
    if picture.format == "PNG" and "exif" not in picture.info and has_chunk(content, b"eXIf"):
        picture.load()  # the chunk may follow the pixels
    if len(picture.info.get("exif", b"")) > MAX_EXIF:
        return 1
    try:
        return int(Image.Image.getexif(picture).get(ORIENTATION, 1))  # PNG's own getexif would decode the pixels
    except Exception:  # of a parser, or a warning turned into one: damaged EXIF is no reason to lose a picture
        return 1


def has_chunk(content: bytes, sought: bytes) -> bool:
    """Return whether a PNG has a chunk of this name."""
    position = 8
    while position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if name == sought:
            return True
        position += 12 + length
    return False
