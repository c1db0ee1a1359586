"""Read how a TIFF file stores its first page, and refuse by name what would not become the right colours."""

import struct
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image, ImageFile, ImagePalette, TiffImagePlugin

PILLOW = int(PIL.__version__.partition(".")[0])
MAX_VALUES = 10**6  # numbers under one tag, such as the places of strips
MAX_TAGS = 65_535
BYTES_AND_TEXTS = {1, 2, 6, 7}  # types of values that are read at once
SIZES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # struct's letters of whole numbers
SUBSAMPLED = (2, 2)  # what a TIFF of YCbCr means without a tag

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLOURS = {
    **{WHITE_IS_ZERO: "grey, white is 0", BLACK_IS_ZERO: "grey", RGB: "RGB", PALETTE: "a palette", 4: "a mask"},
    **{SEPARATED: "CMYK", YCBCR: "YCbCr", LAB: "CIE Lab", 9: "ICC Lab", 10: "ITU Lab", 32844: "LogL", 32845: "LogLuv"},
}
PHOTOMETRIC, BITS, COLOUR_MAP = 262, 258, 320
RAW_COLOURS = {32803, 34892}  # of cameras' sensors
DNG_VERSION = 50706


@dataclass(frozen=True)
class TiffLayout:
    """The tags of a first page that decide how its pixels are stored; `bits` and `extra` have a number for each sample."""

    colours: int
    bits: tuple[int, ...]
    sample_format: int
    extra: tuple[int, ...]
    compression: int
    planar: bool
    subsampling: tuple[int, ...]
    raw: bool

    def describe(self) -> str:
        """Return it in words: "CMYK, 5 samples of 8 bits, with alpha"."""
        bits = " and ".join(f"{count}" for count in sorted(set(self.bits)))
        words = [COLOURS.get(self.colours, f"colours {self.colours}"), f"{len(self.bits)} samples of {bits} bits"]
        words += ["with alpha"] if {1, 2} & set(self.extra) else ["with extra channels"] if self.extra else []
        words += [f"compression {self.compression}"] if self.compression not in TiffImagePlugin.COMPRESSION_INFO else []
        return ", ".join(words)

    def check(self) -> None:
        """Raise ValueError for values whose brightness or colours are not known, which Pillow would read as others."""
        if self.raw:
            raise ValueError("it is a camera's raw file; develop it, and save it as PNG or JPEG")
        if self.sample_format == 3:
            raise ValueError("floating-point values have no fixed range of brightness; save the picture with 8 or 16 bits")
        if self.sample_format != 1:
            kind = {2: "signed", 5: "complex", 6: "complex"}.get(self.sample_format, "undefined")
            raise ValueError(
                f"{kind} {max(self.bits)}-bit values have no known black and white; "
                "save the picture with 8 or 16 unsigned bits"
            )
        if max(self.bits) == 32 and self.colours in (WHITE_IS_ZERO, BLACK_IS_ZERO):
            raise ValueError("32-bit grey values have no known white; save the picture with 16 or 8 bits")
        if self.colours == YCBCR and self.compression == 1 and self.subsampling != (1, 1):
            raise ValueError("uncompressed YCbCr with fewer colours than pixels is not read; save the picture as RGB")
        if self.planar and max(self.bits) == 16 and (self.colours, len(self.bits)) != (RGB, 3):
            raise ValueError(f"{self.describe()}, in planes: this is not read; save the picture as RGB with 8 bits")


def read_tiff_layout(content: bytes) -> TiffLayout | None:
    """Return the layout of the first page; None if its tags are damaged, which Pillow will report.

    Raises:
        ValueError: there are more numbers under one tag than any picture needs.
    """
    tags = _read_tags(content)
    if tags is None:
        return None
    samples = tags.get(277, (1,))[0]
    bits = tags.get(BITS, (1,))
    formats = tags.get(339, (1,))
    return TiffLayout(
        colours=tags.get(PHOTOMETRIC, (WHITE_IS_ZERO,))[0],
        bits=bits * samples if len(bits) == 1 and samples <= 64 else bits,
        sample_format=max(formats, key=lambda one: one != 1),
        extra=tags.get(338, ()),
        compression=tags.get(259, (1,))[0],
        planar=tags.get(284, (1,))[0] == 2,
        subsampling=tags.get(530, SUBSAMPLED),
        raw=DNG_VERSION in tags or tags.get(PHOTOMETRIC, (0,))[0] in RAW_COLOURS or content[8:10] == b"CR",
    )


def _read_tags(content: bytes) -> dict[int, tuple[int, ...]] | None:
    """Return the whole numbers under each tag of the first page, of long lists only the first 64."""
    order, big = "<" if content[:1] == b"I" else ">", b"+" in content[2:4]
    place, number, tag, size = ("Q", "Q", "HHQ", 20) if big else ("I", "H", "HHI", 12)
    tags: dict[int, tuple[int, ...]] = {}
    try:
        (start,) = struct.unpack_from(order + place, content, 8 if big else 4)
        (count,) = struct.unpack_from(order + number, content, start)
        start += struct.calcsize(order + number)
        for offset in range(start, min(start + size * min(count, MAX_TAGS), len(content)), size):
            name, kind, values = struct.unpack_from(order + tag, content, offset)
            if kind not in BYTES_AND_TEXTS and values > MAX_VALUES:
                raise ValueError(f"it has more than {MAX_VALUES:,} numbers under one tag; save the picture anew")
            if kind in SIZES and values:
                width = struct.calcsize(order + SIZES[kind])
                there = offset + struct.calcsize(order + tag)
                if width * values > struct.calcsize(place):  # longer values stand elsewhere
                    (there,) = struct.unpack_from(order + place, content, there)
                tags[name] = struct.unpack_from(f"{order}{min(values, 64)}{SIZES[kind]}", content, there)
    except (struct.error, OverflowError):
        return None
    return tags


class CheckedTiff(TiffImagePlugin.TiffImageFile):
    """Pillow's TIFF file, without its guard of sizes, which `open_picture` has, and with the right values for deep pictures.

    - Planes of 16 bits and YCbCr are read by libtiff. Pillow reads uncompressed planes as if they had 8 bits, and until
      version 12 uncompressed YCbCr as if it were RGB.
    - Grey of 16 bits of which 0 is white is inverted, and grey of 12 bits gets the range of 16.
    - A palette without a value above 255 is one of 8 bits, as libtiff has it, and not nearly black.
    """

    def _setup(self) -> None:
        bits = self.tag_v2.get(BITS, (1,))
        self.deep_negative = self.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO and bits == (16,)
        if self.deep_negative:
            self.tag_v2[PHOTOMETRIC] = BLACK_IS_ZERO  # which Pillow reads in either order of bytes
        super()._setup()
        if not self.use_load_libtiff and self._planar_configuration == 2 and bits[0] == 16:
            self._read_by_libtiff("RGB;16N")
        if PILLOW < 13 and not self.use_load_libtiff and self.tag_v2.get(PHOTOMETRIC) == YCBCR:
            self._read_by_libtiff("RGBX")

        colours = self.tag_v2.get(COLOUR_MAP, ())
        if self.palette is not None and colours and max(colours) < 256:
            self.palette = ImagePalette.raw("RGB;L", bytes(colours))

    def _read_by_libtiff(self, raw_mode: str) -> None:
        """Read an uncompressed picture by libtiff, whose decoder takes the compression until Pillow 12."""
        self.use_load_libtiff = True
        compression = () if PILLOW >= 13 else (self._compression,)
        arguments = (raw_mode, *compression, False, self.tag_v2.offset)
        self.tile = [ImageFile._Tile("libtiff", (0, 0, *self._tile_size), 0, arguments)]

    def load_prepare(self) -> None:
        if self._im is None:
            self.im = Image.core.new(self.mode, self._tile_size)
        super().load_prepare()

    def load(self) -> "Image.core.PixelAccess | None":
        is_new = bool(self.tile)
        pixels = super().load()
        twelve = self.tag_v2.get(BITS) == (12,)
        if not (is_new and (self.deep_negative or twelve)):
            return pixels
        values = np.asarray(self)
        scaled = Image.fromarray(65535 - values if self.deep_negative else (values << 4 | values >> 8))
        self.im, self._mode = scaled.im, scaled.mode
        return Image.Image.load(self)
