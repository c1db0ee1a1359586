"""TIFF files by their layouts: each is right against tifffile and numpy, or refused by its right name."""

import io
import struct

import numpy as np
import pytest
from numpy.typing import DTypeLike

from ldm_train.data.pictures.decoding import decode_picture, read_upright_size
from ldm_train.data.pictures.tiff_layout import read_tiff_layout
from tests.data.bad_pictures import tiff

tifffile = pytest.importorskip("tifffile")
SIZE = (24, 40)


def values(channels: int, dtype: DTypeLike, *, seed: int = 0) -> np.ndarray:
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, high, (*SIZE, channels), dtype=dtype)


def write(pixels: np.ndarray, **settings: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **settings)
    return file.getvalue()


def as_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """RGB of 8 bits, from grey or RGB of all bits."""
    levels = pixels.astype(float) * 255 / np.iinfo(pixels.dtype).max
    return np.broadcast_to(levels, (*pixels.shape[:2], 3))


def assert_seen(content: bytes, expected: np.ndarray) -> None:
    assert read_upright_size(content) == SIZE
    assert np.abs(np.asarray(decode_picture(content)) - expected).max() <= 1


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["minisblack", "miniswhite", "rgb", "planes"])
def test_grey_and_colours(kind: str, dtype: DTypeLike, byteorder: str, compression: str | None) -> None:
    settings = {"byteorder": byteorder, "compression": compression}
    if kind == "planes":
        pixels = values(3, dtype)
        content = write(pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", **settings)
        read = tifffile.imread(io.BytesIO(content)).transpose(1, 2, 0)
    else:
        pixels = values(3 if kind == "rgb" else 1, dtype)
        content = write(pixels if kind == "rgb" else pixels[..., 0], photometric=kind, **settings)
        read = tifffile.imread(io.BytesIO(content)).reshape(pixels.shape)
    assert np.array_equal(read, pixels)
    assert_seen(content, as_eight_bits(np.iinfo(dtype).max - pixels if kind == "miniswhite" else pixels))


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_files_of_other_shapes(bigtiff: bool, tile: tuple[int, int] | None) -> None:
    pixels = values(3, np.uint16)
    assert_seen(write(pixels, photometric="rgb", bigtiff=bigtiff, tile=tile), as_eight_bits(pixels))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_alpha_channel_is_on_white(dtype: DTypeLike) -> None:
    pixels = values(4, dtype)
    most = np.iinfo(dtype).max
    alpha = pixels[..., 3:] / most
    seen = pixels[..., :3] / most * 255 * alpha + 255 * (1 - alpha)
    content = write(pixels, photometric="rgb", extrasamples=["unassalpha"])
    assert np.abs(np.asarray(decode_picture(content)) - seen).max() <= 2


def test_grey_of_twelve_bits_has_its_own_white() -> None:
    levels = np.random.default_rng(0).integers(0, 4096, SIZE)
    first, second = levels[:, 0::2], levels[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()
    tags = {256: SIZE[1], 257: SIZE[0], 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: SIZE[0], 279: len(packed)}
    page = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + page + bytes(4)
    assert_seen(content, np.repeat(levels[..., None] / 4095 * 255, 3, axis=2))


def retagged(content: bytes, tag: int, value: int) -> bytes:
    """The file with another number under a tag that it has."""
    place = content.index(struct.pack("<H", tag), struct.unpack_from("<I", content, 4)[0])
    return content[: place + 8] + struct.pack("<H", value) + content[place + 10 :]


FLOATS = {
    f"float {bits} {kind}": write(np.zeros((*SIZE, *more), dtype=f"f{bits // 8}"), photometric=kind)
    for bits in (16, 32, 64)
    for kind, more in (("minisblack", ()), ("rgb", (3,)))
}
REFUSED = {
    **dict.fromkeys(FLOATS, "floating-point"),
    "signed 16": "signed 16-bit values",
    "signed 8": "signed 8-bit values",
    "signed colours": "signed 16-bit values",
    "unsigned 32": "32-bit grey",
    "dark unsigned 32": "32-bit grey",
    "cmyk with alpha": "CMYK, 5 samples of 8 bits, with alpha",
    "grey 16 with alpha": "grey, 2 samples of 16 bits, with alpha",
    "planes of cmyk": "CMYK, 4 samples of 16 bits, in planes",
    "an unknown compression": "compression 34712",
    "camera raw": "camera's raw file",
    "ten bits": "grey, 1 samples of 10 bits",
}
FILES = {
    **FLOATS,
    "signed 16": write(values(1, np.int16)[..., 0], photometric="minisblack"),
    "signed 8": write(values(1, np.int8)[..., 0], photometric="minisblack"),
    "signed colours": write(values(3, np.int16), photometric="rgb"),
    "unsigned 32": write(values(1, np.uint32)[..., 0], photometric="minisblack"),
    "dark unsigned 32": write(np.ones(SIZE, np.uint32), photometric="minisblack"),
    "cmyk with alpha": write(values(5, np.uint8), photometric="separated", extrasamples=["unassalpha"]),
    "grey 16 with alpha": write(values(2, np.uint16), photometric="minisblack", extrasamples=["unassalpha"]),
    "planes of cmyk": write(values(4, np.uint16).transpose(2, 0, 1), photometric="separated", planarconfig="separate"),
    "an unknown compression": retagged(tiff(values(3, np.uint8), kind=2), 259, 34712),
    "camera raw": retagged(write(values(1, np.uint16)[..., 0], photometric="minisblack"), 262, 32803),
    "ten bits": retagged(tiff(values(1, np.uint8), kind=1), 258, 10),
}


@pytest.mark.parametrize("name", FILES)
def test_what_has_no_certain_colours_is_refused_by_its_name(name: str) -> None:
    for read in (read_upright_size, decode_picture):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            read(FILES[name])
        assert REFUSED[name] in str(caught.value)
        assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("scale", [257, 1])
def test_a_palette_of_eight_bits_is_not_black(scale: int) -> None:
    """Sixteen are meant, and some programs write eight."""
    colours = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint16)
    indices = values(1, np.uint8)[..., 0]
    assert_seen(write(indices, photometric="palette", colormap=colours.T * scale), colours[indices].astype(float))


def test_damaged_tags_have_no_layout() -> None:
    assert read_tiff_layout(FILES["signed 16"][:20]) is None


def test_cmyk_is_read() -> None:
    pixels = values(4, np.uint8)
    inks = pixels.astype(float)
    expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    assert np.abs(np.asarray(decode_picture(write(pixels, photometric="separated"))) - expected).max() <= 1
