"""The one table of picture formats: names of files, first bytes, whether a format is read, and what to do if it is not."""

import struct
from dataclasses import dataclass
from importlib.util import find_spec

HEIC_PACKAGE = "pillow_heif"
CONVERT = "convert it to PNG or JPEG"


@dataclass(frozen=True)
class PictureFormat:
    """A format of pictures.

    Args:
        name: as messages write it.
        suffixes: how the names of its files end; none if such files are usually documents or films, and no pictures.
        starts: the first bytes of a file, any of these; formats without them are recognised by `recognise_format`.
        plugin: Pillow's name of the format; None if it is not read.
        advice: what to do if it is not read.
    """

    name: str
    suffixes: tuple[str, ...]
    starts: tuple[bytes, ...] = ()
    plugin: str | None = None
    advice: str = CONVERT


HEIC = PictureFormat(
    "HEIC",
    (".heic", ".heif", ".hif"),
    plugin="HEIF",
    advice=f"install the extra `heic` (pip install pillow-heif), or {CONVERT}",
)
AVIF = PictureFormat("AVIF", (".avif", ".avifs"), plugin="AVIF", advice=f"install a Pillow that reads AVIF, or {CONVERT}")
TGA = PictureFormat("TGA", (".tga",), plugin="TGA")
CAMERA_RAW = PictureFormat(
    "a camera's raw file",
    (".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
    advice="develop it, and save it as PNG or JPEG",
)
VIDEO = PictureFormat("a video", (), advice="save frames of it as pictures")

FORMATS = (
    PictureFormat("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), (b"\xff\xd8\xff",), "JPEG"),
    PictureFormat("PNG", (".png", ".apng"), (b"\x89PNG\r\n\x1a\n",), "PNG"),
    PictureFormat("WebP", (".webp",), (), "WEBP"),
    AVIF,
    HEIC,
    PictureFormat("GIF", (".gif",), (b"GIF87a", b"GIF89a"), "GIF"),
    PictureFormat("TIFF", (".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    PictureFormat("BMP", (".bmp",), (b"BM",), "BMP"),
    PictureFormat(
        "JPEG 2000",
        (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
        (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
        "JPEG2000",
    ),
    PictureFormat("PPM", (".ppm", ".pgm", ".pbm", ".pnm"), (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), "PPM"),
    PictureFormat("QOI", (".qoi",), (b"qoif",), "QOI"),
    TGA,
    CAMERA_RAW,
    PictureFormat("an SVG drawing", (".svg", ".svgz"), advice="it must be rendered to pixels first"),
    PictureFormat("a Krita file", (".kra",)),
    PictureFormat("PCX", (".pcx",)),
    PictureFormat("JPEG XL", (".jxl",), (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    PictureFormat("a Photoshop file", (".psd", ".psb"), (b"8BPS",)),
    PictureFormat("a GIMP file", (".xcf",), (b"gimp xcf",)),
    PictureFormat("OpenEXR", (".exr",), (b"v/1\x01",)),
    PictureFormat("Radiance HDR", (".hdr",), (b"#?RADIANCE", b"#?RGBE")),
    PictureFormat("a float map", (".pfm",), (b"PF\n", b"Pf\n")),
    PictureFormat("PAM", (".pam",), (b"P7\n",)),
    PictureFormat("an icon", (".ico",), (b"\0\0\1\0",)),
    PictureFormat("JPEG XR", (".jxr", ".wdp"), (b"II\xbc",)),
    PictureFormat("a DDS texture", (".dds",), (b"DDS ",)),
    PictureFormat("a PDF", (), (b"%PDF",), advice="save its pages as pictures"),
    PictureFormat("PostScript", (".eps",), (b"%!PS", b"\xc5\xd0\xd3\xc6"), advice="it must be rendered to pixels first"),
)

AVIF_BRANDS = {b"avif", b"avis", b"avio"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2", b"heif"}
RAW_BRANDS = {b"crx "}
TGA_DEPTHS = {1: (8,), 2: (16, 24, 32), 3: (1, 8, 16)}  # bits of a pixel of each kind: palette, colour, grey

READ_FORMATS = tuple(one for one in FORMATS if one.plugin is not None and (one is not HEIC or find_spec(HEIC_PACKAGE)))
PICTURE_SUFFIXES = frozenset(suffix for one in READ_FORMATS for suffix in one.suffixes)
UNREAD_SUFFIXES = frozenset(suffix for one in FORMATS for suffix in one.suffixes) - PICTURE_SUFFIXES
PICTURE_ENDINGS = tuple(suffix.removeprefix(".") for one in READ_FORMATS for suffix in one.suffixes)


def recognise_format(start: bytes) -> PictureFormat | None:
    """Return the format of a file with these first bytes (at least 64, or the whole file); None if it is no picture."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return next(one for one in FORMATS if one.plugin == "WEBP")
    if start[4:8] == b"ftyp":
        return _recognise_brands(start)
    if found := next((one for one in FORMATS if start.startswith(one.starts)), None):
        return found
    return TGA if _is_tga(start) else None


def _recognise_brands(start: bytes) -> PictureFormat:
    """Return the format of an ISO media file by its major and its compatible brands."""
    length = max(16, min(struct.unpack_from(">I", start)[0], len(start)))
    brands = [start[8:12], *(start[place : place + 4] for place in range(16, length - 3, 4))]
    for known, one in ((AVIF_BRANDS, AVIF), (RAW_BRANDS, CAMERA_RAW), (HEIC_BRANDS, HEIC)):
        if known & set(brands):
            return AVIF if one is HEIC and b"av01" in start else one
    return VIDEO


def _is_tga(start: bytes) -> bool:
    """Return whether the header is a Targa file's, which has no first bytes of its own: all its fields must fit together."""
    if len(start) < 18:
        return False
    map_kind, kind, _, map_count, map_depth, _, _, width, height, depth, flags = struct.unpack_from("<xBBHHBHHHHBB", start)
    plain = kind & 7
    fits = kind in (1, 2, 3, 9, 10, 11) and depth in TGA_DEPTHS[plain] and width > 0 < height and flags & 0xC0 == 0
    return fits and ((map_count > 0 and map_depth in (15, 16, 24, 32)) if plain == 1 else map_kind == map_count == 0)
