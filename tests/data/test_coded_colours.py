"""Colours that files describe by numbers become sRGB as the formulas say; what needs tone mapping is refused by its name."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ldm_train.data.pictures.coded_colours import PRIMARIES, SRGB, Chromaticities, make_profile
from ldm_train.data.pictures.decoding import decode_picture, find_profile_problem
from ldm_train.data.pictures.iso_media import read_nclx
from ldm_train.data.pictures.png_chunks import strip_png
from tests.data import profiles
from tests.data.bad_pictures import chunk, png, quarters, saved

LEVELS = np.stack(np.meshgrid(*[np.linspace(0, 255, 9).round()] * 3), axis=-1).reshape(27, 27, 3).astype(np.uint8)
TO_XYZ = {  # of Display P3 and BT.2020, as their standards print them, and of sRGB
    1: [[0.412391, 0.357584, 0.180481], [0.212639, 0.715169, 0.072192], [0.019331, 0.119195, 0.950532]],
    9: [[0.636958, 0.144617, 0.168881], [0.262700, 0.677998, 0.059302], [0.000000, 0.028073, 1.060985]],
    12: [[0.486571, 0.265668, 0.198217], [0.228975, 0.691739, 0.079287], [0.000000, 0.045113, 1.043944]],
}


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def linear_of(encoded: np.ndarray, exponent: float | None) -> np.ndarray:
    if exponent is not None:
        return encoded**exponent
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def expected(pixels: np.ndarray, primaries: int, exponent: float | None) -> np.ndarray:
    """The formulas in numpy, clipped to sRGB's gamut."""
    to_srgb = np.linalg.inv(TO_XYZ[1]) @ np.array(TO_XYZ[primaries])
    return 255 * srgb_curve(linear_of(pixels / 255, exponent) @ to_srgb.T)


def with_chunks(pixels: np.ndarray, *chunks: bytes, grey: bool = False) -> bytes:
    rows = [row.tobytes() for row in pixels]
    return png(pixels.shape[1], pixels.shape[0], depth=8, kind=0 if grey else 2, rows=rows, extra=b"".join(chunks))


def gamma(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chromaticities(colours: Chromaticities) -> bytes:
    points = (colours.white, colours.red, colours.green, colours.blue)
    return chunk(b"cHRM", struct.pack(">8I", *(round(100_000 * one) for point in points for one in point)))


def cicp(primaries: int, transfer: int, matrix: int = 0, full: int = 1) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, matrix, full]))


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))


SRGB_CHUNK = chunk(b"sRGB", b"\0")
CASES: dict[str, tuple[list[bytes], int, float | None]] = {
    "linear": ([gamma(1.0)], 1, 1.0),
    "gamma 1.8": ([gamma(1 / 1.8)], 1, 1.8),
    "gamma of sRGB": ([gamma(0.45455)], 1, None),
    "gamma and chromaticities of sRGB": ([gamma(0.45455), chromaticities(SRGB)], 1, None),
    "chromaticities of P3": ([gamma(0.45455), chromaticities(PRIMARIES[12])], 12, None),
    "linear BT.2020": ([gamma(1.0), chromaticities(PRIMARIES[9])], 9, 1.0),
    "sRGB goes before gamma": ([gamma(1.0), SRGB_CHUNK], 1, None),
    "cICP of sRGB": ([cicp(1, 13)], 1, None),
    "cICP of P3": ([cicp(12, 13)], 12, None),
    "cICP of BT.2020": ([cicp(9, 14)], 9, None),
    "linear cICP": ([cicp(12, 8)], 12, 1.0),
    "cICP goes before all": ([gamma(1.0), SRGB_CHUNK, iccp(profiles.display_p3()), cicp(1, 13)], 1, None),
    "a profile goes before gamma": ([gamma(1.0), iccp(profiles.display_p3())], 12, 2.2),
    "gamma of nothing": ([gamma(0.0)], 1, None),
    "chromaticities of nothing": ([chromaticities(Chromaticities((0, 0), (0, 0), (0, 0)))], 1, None),
    "a damaged gamma": ([gamma(1.0)[:-1] + b"?"], 1, None),
}


@pytest.mark.parametrize("name", CASES)
def test_colours_of_a_png_are_what_the_formulas_say(name: str) -> None:
    chunks, primaries, exponent = CASES[name]
    content = with_chunks(LEVELS, *chunks)
    seen = np.asarray(decode_picture(content)).astype(float)
    assert np.abs(seen - expected(LEVELS, primaries, exponent)).max() <= 2
    assert find_profile_problem(content) is None
    if (primaries, exponent) == (1, None):
        assert np.array_equal(seen, LEVELS)


def test_grey_has_its_gamma() -> None:
    grey = np.arange(256, dtype=np.uint8)[None].repeat(2, axis=0)
    seen = np.asarray(decode_picture(with_chunks(grey, gamma(1.0), grey=True)))
    assert np.abs(seen - expected(grey[..., None].repeat(3, axis=2), 1, 1.0)).max() <= 2


@pytest.mark.parametrize(
    ("numbers", "name"),
    [((9, 16), "PQ"), ((9, 18), "HLG"), ((12, 16), "PQ"), ((10, 13), "primaries 10"), ((1, 17), "transfer function 17")],
)
def test_colours_that_are_not_converted_are_named(numbers: tuple[int, int], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        decode_picture(with_chunks(LEVELS, cicp(*numbers)))


@pytest.mark.parametrize(("matrix", "full"), [(1, 1), (0, 0)])
def test_a_png_that_is_no_full_rgb_is_refused(matrix: int, full: int) -> None:
    with pytest.raises(ValueError, match=f"matrix {matrix} and range {full}"):
        decode_picture(with_chunks(LEVELS, cicp(1, 13, matrix, full)))


def avif(primaries: int, transfer: int) -> bytes:
    """An AVIF with these numbers in its container, which Pillow writes as those of sRGB."""
    content = saved(Image.fromarray(LEVELS), "AVIF", quality=100, subsampling="4:4:4")
    place = content.index(b"colrnclx") + 8
    return content[:place] + struct.pack(">HH", primaries, transfer) + content[place + 4 :]


@pytest.mark.parametrize(("primaries", "transfer"), [(1, 13), (12, 13), (9, 14), (1, 1), (2, 2), (12, 8)])
def test_colours_of_an_avif(primaries: int, transfer: int) -> None:
    plain = np.asarray(decode_picture(avif(1, 13))).astype(float)
    seen = np.asarray(decode_picture(avif(primaries, transfer))).astype(float)
    exponent = 1.0 if transfer == 8 else None
    assert np.abs(seen - expected(plain, 1 if primaries == 2 else primaries, exponent)).max() <= 2
    assert read_nclx(avif(primaries, transfer)) == (primaries, transfer)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG"), (12, "transfer function 12")])
def test_an_avif_of_high_dynamic_range_is_refused(transfer: int, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        decode_picture(avif(9, transfer))


def test_numbers_in_damaged_boxes_are_none() -> None:
    content = avif(9, 16)
    end = content.index(b"colrnclx")
    assert all(read_nclx(content[:cut]) is None for cut in range(0, end, 7))


def test_the_profile_of_p3_is_apples() -> None:
    made = make_profile(PRIMARIES[12], 2.2)
    for name, values in profiles.DISPLAY_P3.items():
        place = struct.unpack_from(">I", made, made.index(name) + 4)[0] + 8
        assert np.allclose(np.array(struct.unpack_from(">3i", made, place)) / 65536, values, atol=2e-4)


WORKFLOW = b'{"nodes": "' + b"x" * (5 * 2**20) + b'"}'
TEXTS = {
    "zTXt": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(WORKFLOW)),
    "iTXt": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(WORKFLOW)),
    "plain iTXt": chunk(b"iTXt", b"workflow\0\0\0\0\0" + WORKFLOW),
    "tEXt": chunk(b"tEXt", b"workflow\0" + WORKFLOW),
    "100 MB of tEXt": chunk(b"tEXt", b"workflow\0" + b"x" * 10**6) * 100,
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(WORKFLOW)),
    "EXIF in a text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(WORKFLOW)),
    "of an unknown compression": chunk(b"zTXt", b"workflow\0\7" + WORKFLOW),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_a_long_text_costs_no_picture(name: str, late: bool) -> None:
    rows = [row.tobytes() for row in np.asarray(quarters())]
    content = png(64, 32, depth=8, kind=2, rows=rows, **{"late" if late else "extra": TEXTS[name]})
    assert np.array_equal(np.asarray(decode_picture(content)), np.asarray(quarters()))
    assert len(strip_png(content)[0]) < 1000


def test_a_short_text_with_the_orientation_is_kept() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for extra in (b"\0\0\0\0" + xmp, b"\1\0\0\0" + zlib.compress(xmp)):
        rows = [row.tobytes() for row in np.asarray(quarters())]
        content = png(64, 32, depth=8, kind=2, rows=rows, extra=chunk(b"iTXt", b"XML:com.adobe.xmp\0" + extra))
        assert decode_picture(content).size == (32, 64)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_file_without_texts_is_not_copied(kept: int) -> None:
    content = with_chunks(LEVELS, *[chunk(b"eXIf", b"MM\0*")] * kept)
    assert strip_png(content)[0] is content


def test_a_profile_of_megabytes_is_applied_and_a_larger_one_named() -> None:
    """Pillow unpacks one megabyte; printers' tables have more."""
    for spare, problem in ((3 * 2**20, None), (9 * 2**20, "8,388,608 bytes")):
        profile = profiles.display_p3() + bytes(spare)
        profile = struct.pack(">I", len(profile)) + profile[4:]
        content = with_chunks(LEVELS, iccp(profile))
        seen = np.asarray(decode_picture(content)).astype(float)
        assert np.abs(seen - (expected(LEVELS, 12, 2.2) if problem is None else LEVELS)).max() <= 2
        found = find_profile_problem(content)
        assert (found is None) if problem is None else (problem in str(found))


def test_an_animation_gives_its_first_frame() -> None:
    frames = saved(quarters(), "PNG", save_all=True, append_images=[Image.new("RGB", (64, 32))])
    stripped, _ = strip_png(frames)
    assert b"fdAT" not in stripped
    assert np.array_equal(np.asarray(decode_picture(frames)), np.asarray(quarters()))
