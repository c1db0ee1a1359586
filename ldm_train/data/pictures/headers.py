"""Open pictures and check their headers: format, size, structure and orientation, before any pixel is decoded."""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import cast

from PIL import Image, features

from ldm_train.data.pictures.coded_colours import coded_profile
from ldm_train.data.pictures.colour import colour_mode
from ldm_train.data.pictures.formats import AVIF, HEIC, HEIC_PACKAGE, READ_FORMATS, TGA, PictureFormat, recognise_format
from ldm_train.data.pictures.iso_media import read_nclx
from ldm_train.data.pictures.png_chunks import read_png_profile, strip_png
from ldm_train.data.pictures.structure import check_structure
from ldm_train.data.pictures.tga_file import CheckedTga
from ldm_train.data.pictures.tiff_layout import CheckedTiff, read_tiff_layout
from ldm_train.util.inputs import READ_ERRORS

MAX_PIXELS = 178_956_970  # Pillow's own limit: 0.7 GB in memory
DECODE_ERRORS = (*READ_ERRORS, SyntaxError, Image.DecompressionBombError)
DESCRIBED = (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError)  # their messages name the damage

DAMAGED_HEADER = (SyntaxError, IndexError, TypeError, struct.error)  # what Pillow's formats raise for one

# The first bytes, in lower case, of files that are no pictures, and what to add to the message.
BEGINNINGS = {
    b"<!doctype html": "an HTML page, as a failed download leaves",
    b"<html": "an HTML page, as a failed download leaves",
    b"version https://git-lfs": "a Git LFS pointer; run git lfs pull",
    b"\x93numpy": "an array (.npy); pixels.channels and pixels.bits read pictures as they are stored",
}

ORIENTATION = 0x0112  # EXIF's tag
MAX_EXIF = 16 * 2**20  # bytes, of which one tag may claim all

Image.init()  # registers Pillow's own formats, of which only those of the table are used


@contextmanager
def open_picture(content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Open a picture and check its header; whatever Pillow raises until the block ends becomes one of `DECODE_ERRORS`.

    The format's class is called directly: `Image.open` would warn of large pictures, or refuse them, by a limit of the whole
    process; `check_header` has its own, before any pixel is decoded. Colours that are not in an ICC profile get one.
    """
    if not content:
        raise ValueError("empty file")
    check_structure(content)
    kind = require_format(content)
    try:
        with open_format(kind, content) as picture:
            check_header(picture, max_pixels)
            yield picture
    except DESCRIBED:
        raise
    except Exception as error:  # damaged files lead Pillow's parsers to struct.error, KeyError, OverflowError and others
        raise ValueError(f"damaged: {type(error).__name__}: {error}") from error


def open_format(kind: PictureFormat, content: bytes) -> Image.Image:
    """Return a picture of a known format, with its colour profile under "icc_profile", before any pixel is decoded."""
    layout = read_tiff_layout(content) if kind.plugin == "TIFF" else None
    if layout is not None:
        layout.check()
    stripped, colours = strip_png(content) if kind.plugin == "PNG" else (content, {})
    try:
        picture = find_picture_class(kind)(io.BytesIO(stripped), "")
    except (*DAMAGED_HEADER, KeyError) as error:
        if layout is not None:
            raise ValueError(f"{layout.describe()}: such a TIFF is not read; save the picture as RGB with 8 bits") from error
        raise ValueError(f"not a picture Pillow can read: it is {kind.name}, and its header is damaged") from error
    grey = colour_mode(picture.mode) == "L"
    if kind.plugin == "PNG" and (profile := read_png_profile(colours, grey=grey)) is not None:
        picture.info["icc_profile"] = profile
    if kind in (AVIF, HEIC) and not picture.info.get("icc_profile") and (coded := read_nclx(content)) is not None:
        picture.info["icc_profile"] = coded_profile(*coded, grey=grey)
    return picture


def find_picture_class(kind: PictureFormat) -> Callable[[io.BytesIO, str], Image.Image]:
    """Return the class that makes a picture of a file's bytes."""
    if kind.plugin == "TIFF":
        return CheckedTiff
    if kind is TGA:
        return CheckedTga
    if kind is HEIC:  # not registered with Pillow, which would change it for the whole process
        plugin = import_module(f"{HEIC_PACKAGE}.as_plugin")
        return cast(Callable[[io.BytesIO, str], Image.Image], plugin.HeifImageFile)
    return Image.OPEN[str(kind.plugin)][0]


def require_format(start: bytes) -> PictureFormat:
    """Return the format of a file with these first bytes.

    Raises:
        ValueError: it is not a picture, or one of a format that is not read here.
    """
    kind = recognise_format(start)
    if kind is None:
        raise ValueError(f"not a picture Pillow can read{describe_beginning(start)}")
    if kind not in READ_FORMATS or (kind is AVIF and not features.check("avif")):
        raise ValueError(f"not a picture Pillow can read: it is {kind.name}; {kind.advice}")
    return kind


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
    return next((f": it is {kind}" for prefix, kind in BEGINNINGS.items() if start.startswith(prefix)), "")


def read_orientation(picture: Image.Image, content: bytes) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (not turned) if the EXIF data is damaged."""
    if picture.format == "TIFF":  # Pillow turns it
        return 1
    if picture.format == "PNG" and "exif" not in picture.info and has_chunk(content, b"eXIf"):
        picture.load()  # the chunk may follow the pixels
    if len(picture.info.get("exif") or b"") > MAX_EXIF:
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
