"""The one table of formats: what it lists is decoded, under any name, and what it does not read is refused by its name."""

import io
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from ldm_train.data.pictures import formats, headers
from ldm_train.data.pictures.decoding import DECODE_ERRORS, decode_picture
from ldm_train.data.pictures.formats import (
    FORMATS,
    HEIC,
    PICTURE_ENDINGS,
    PICTURE_SUFFIXES,
    UNREAD_SUFFIXES,
    recognise_format,
)
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.tar_shards import TarShards
from tests.data.bad_pictures import quarters, saved

LOSSLESS: dict[str, dict[str, object]] = {
    **{name: {} for name in ("PNG", "BMP", "TIFF", "PPM", "QOI", "TGA", "GIF", "JPEG2000")},
    "WEBP": {"lossless": True},
}
LOSSY: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}


def ftyp(major: bytes, *compatible: bytes, extra: bytes = b"") -> bytes:
    brands = major + bytes(4) + b"".join(compatible)
    return struct.pack(">I4s", 8 + len(brands), b"ftyp") + brands + extra + bytes(100)


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
def test_every_format_that_is_read_is_decoded(kind: str) -> None:
    content = saved(quarters(), kind, **{**LOSSLESS, **LOSSY}[kind])
    found = recognise_format(content[:64])
    assert found is not None
    assert found.plugin == kind
    difference = np.asarray(decode_picture(content)).astype(int) - np.asarray(quarters())
    assert np.abs(difference).max() <= (0 if kind in LOSSLESS else 6)


def test_every_listed_format_is_tried_above() -> None:
    assert {one.plugin for one in FORMATS if one.plugin} == {*LOSSLESS, *LOSSY, "HEIF"}


def test_a_suffix_stands_for_one_format() -> None:
    suffixes = [suffix for one in FORMATS for suffix in one.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert {".jpe", ".ppm", ".qoi", ".tga"} <= PICTURE_SUFFIXES
    assert {".dng", ".jxl", ".svg", ".psd"} <= UNREAD_SUFFIXES
    assert not PICTURE_SUFFIXES & UNREAD_SUFFIXES
    assert {f".{ending}" for ending in PICTURE_ENDINGS} == PICTURE_SUFFIXES


def test_folders_and_tars_read_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "s.tar").touch()
    assert {f".{ending}" for ending in TarShards(str(tmp_path / "s.tar")).images} == PICTURE_SUFFIXES
    for suffix in PICTURE_SUFFIXES:
        (tmp_path / f"a{suffix}").touch()
        (tmp_path / f"a{suffix}.txt").write_text("x")
    assert {item.key for item in Folder(str(tmp_path)) if item.picture} == {f"a{suffix}" for suffix in PICTURE_SUFFIXES}


@pytest.mark.parametrize(
    ("mode", "options"), [("L", {}), ("P", {}), ("LA", {}), ("RGB", {"compression": "tga_rle"}), ("1", {}), ("RGBA", {})]
)
def test_kinds_of_targa(mode: str, options: dict[str, object]) -> None:
    picture = quarters().convert(mode)
    decoded = decode_picture(saved(picture, "TGA", **options))
    assert np.array_equal(np.asarray(decoded), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("options", [{}, {"compression": "tga_rle"}])
@pytest.mark.parametrize("alpha_bits", [0, 8])
def test_a_fourth_channel_of_targa_is_alpha_only_if_it_says_so(alpha_bits: int, options: dict[str, object]) -> None:
    picture = quarters().convert("RGBA")
    picture.putalpha(0)
    content = bytearray(saved(picture, "TGA", **options))
    content[17] = content[17] & 0xF0 | alpha_bits
    seen = np.asarray(decode_picture(bytes(content)))
    assert np.array_equal(seen, np.asarray(quarters()) if alpha_bits == 0 else np.full_like(seen, 255))


@pytest.mark.parametrize("content", [bytes(1000), b"no picture at all, just text", b"\1\0\2\3" * 50, b"PK\3\4" + bytes(60)])
def test_what_is_no_picture_is_not_taken_for_targa(content: bytes) -> None:
    assert recognise_format(content) is None


@pytest.mark.parametrize(
    ("start", "name"),
    [
        *((ftyp(brand), "HEIC") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")),
        (ftyp(b"mif1", b"miaf", b"heic"), "HEIC"),
        (ftyp(b"abcd", b"mif1", b"heix"), "HEIC"),
        (ftyp(b"mif1", b"miaf", b"avif"), "AVIF"),
        (ftyp(b"mif1", b"miaf", extra=b"meta....av01"), "AVIF"),
        (ftyp(b"avis"), "AVIF"),
        (ftyp(b"crx "), "a camera's raw file"),
        (ftyp(b"isom", b"mp42"), "a video"),
        (ftyp(b"qt  "), "a video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS" + bytes(60), "a Photoshop file"),
        (b"v/1\x01" + bytes(60), "OpenEXR"),
    ],
)
def test_a_format_is_named(start: bytes, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = recognise_format(start)
    assert found is not None
    assert found.name == name
    monkeypatch.setattr(headers, "READ_FORMATS", ())
    with pytest.raises(ValueError, match=f"it is {name}; "):
        decode_picture(start)


def heic() -> bytes:
    """A lossless picture, whose writer is not registered with Pillow."""
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(quarters()).save(file, quality=-1, chroma=444, matrix_coefficients=0)
    return file.getvalue()


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
def test_heic_is_decoded_where_its_package_is(brand: bytes) -> None:
    content = heic()
    content = content[:8] + brand + content[12:]
    assert np.abs(np.asarray(decode_picture(content)).astype(int) - np.asarray(quarters())).max() <= 2
    assert {".heic", ".heif", ".hif"} <= PICTURE_SUFFIXES


def test_heic_that_is_cut_is_refused() -> None:
    content = heic()
    with pytest.raises(DECODE_ERRORS):
        decode_picture(content[: len(content) // 3])


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "READ_FORMATS", tuple(one for one in formats.READ_FORMATS if one is not HEIC))
    with pytest.raises(ValueError, match="pillow-heif"):
        decode_picture(ftyp(b"heic"))


@pytest.mark.slow
def test_importing_the_decoder_leaves_pillow_as_it_is() -> None:
    code = """if True:
    from PIL import Image, ImageFile, PngImagePlugin
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK
    from ldm_train.data.pictures import decoding, images, mask_files
    from ldm_train.reports import embedded_pictures
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK)
    assert None not in before and "HEIF" not in Image.OPEN
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
def test_pillows_limit_does_not_count_for_our_own(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(quarters(), kind, **{**LOSSLESS, **LOSSY}[kind])
    for limit in (64 * 32 - 1, 64 * 32 // 2 - 1):  # from which Pillow would warn, and refuse
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if kind == "WEBP" and limit < 64 * 16:
                continue  # its decoder has the limit inside; a WebP has at most 268 million pixels
            assert decode_picture(content).size == (64, 32)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
