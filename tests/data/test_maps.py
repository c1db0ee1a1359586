"""Maps of pictures: read at their full depth, refused where their range is unknown, and cut as their pictures are."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from ldm_train.data.pictures.crops import Buckets, CentreCrop, Crop, FitCrop, RandomCrop, View
from ldm_train.data.pictures.decoding import DECODE_ERRORS, decode_picture, render_view
from ldm_train.data.pictures.map_values import check_aspect, read_map_size
from ldm_train.data.pictures.maps import MapError, MapSpec, decode_map, render_map
from ldm_train.data.sources.items import PictureFile
from tests.data.map_files import deep_png, npy, png

SIZE = (6, 9)
DEPTH = MapSpec("depth")
LABELS = MapSpec("labels", nearest=True)


def drawn(channels: int, kind: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max, (*SIZE, channels), dtype=kind, endpoint=True)


def as_stored(content: bytes, spec: MapSpec, kind: type = np.uint16) -> np.ndarray:
    """The values of a map as the numbers of the file, (H, W, C)."""
    values = decode_map(content, spec)
    assert values.dtype == torch.float32
    assert (values >= -1).all()
    assert (values <= 1).all()
    return ((values.double() + 1) * np.iinfo(kind).max / 2).round().permute(1, 2, 0).numpy().astype(kind)


def tiff(pixels: np.ndarray, **settings: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels.squeeze(), **settings)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("write", [deep_png, tiff, npy])
def test_sixteen_bits_stay_sixteen(write: object, channels: int) -> None:
    pixels = drawn(channels)
    more = {"photometric": "minisblack" if channels == 1 else "rgb", "extrasamples": ["unassalpha"] * (channels == 4)}
    content = write(pixels, **(more if write is tiff else {}))  # type: ignore[operator]
    assert read_map_size(content) == SIZE
    assert np.array_equal(as_stored(content, MapSpec("a", channels)), pixels)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_sixteen_bits_of_every_layout_of_tiff(compression: str | None, byteorder: str, tile: tuple[int, int] | None) -> None:
    pixels = drawn(3)
    content = tiff(pixels, photometric="rgb", compression=compression, byteorder=byteorder, tile=tile)
    assert np.array_equal(as_stored(content, MapSpec("a", 3)), pixels)


def test_sixteen_bits_in_planes_are_refused_and_not_cut() -> None:
    content = tiff(drawn(3).transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    with pytest.raises(ValueError, match="planes"):
        decode_map(content, MapSpec("a", 3))


def test_grey_with_alpha_of_sixteen_bits_is_both_or_is_put_on_the_background() -> None:
    pixels = drawn(2)
    pixels[0, 0], pixels[0, 1] = (30000, 65535), (30000, 0)
    assert np.array_equal(as_stored(deep_png(pixels), MapSpec("a", 2)), pixels)
    flat = as_stored(deep_png(pixels), DEPTH)
    assert flat[0, :2, 0].tolist() == [30000, 65535]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_eight_bits_are_as_pictures_have_them(channels: int) -> None:
    pixels = drawn(channels, np.uint8)
    values = decode_map(png(pixels), MapSpec("a", channels))
    assert torch.equal(values, torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1)


def test_colours_become_grey_and_grey_three_channels() -> None:
    pixels = drawn(3, np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert("L")).astype(int)
    assert np.abs(as_stored(png(pixels), DEPTH, np.uint8)[..., 0].astype(int) - grey).max() <= 1
    grey = drawn(1, np.uint8)
    for spec in (MapSpec("a", 3), MapSpec("a", 1, encoded=True)):
        assert np.array_equal(as_stored(png(grey), spec, np.uint8), grey.repeat(3, axis=2))


def test_labels_are_the_numbers_of_a_palette_and_never_colours() -> None:
    numbers = drawn(1, np.uint8)[..., 0] % 5
    picture = Image.fromarray(numbers).convert("P")
    picture.putdata(numbers.flatten().tolist())
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9, 77, 0, 1])
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert np.array_equal(as_stored(file.getvalue(), LABELS, np.uint8)[..., 0], numbers)
    with pytest.raises(ValueError, match="palette"):
        decode_map(png(drawn(3, np.uint8)), LABELS)
    assert np.array_equal(as_stored(png(numbers[..., None].repeat(3, 2)), LABELS, np.uint8)[..., 0], numbers)


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(-1, 1, 54, dtype=np.float32).reshape(SIZE),
        np.linspace(0, 1, 270).reshape(*SIZE, 5),
        np.asfortranarray(np.linspace(-1, 0, 108, dtype=np.float16).reshape(*SIZE, 2)),
        np.linspace(-1, 1, 54).reshape(SIZE).astype(">f4"),
    ],
    ids=["float32", "five channels", "columns first", "big-endian"],
)
def test_floats_stay_as_they_are(values: np.ndarray) -> None:
    assert read_map_size(npy(values)) == SIZE
    whole = values.reshape(*SIZE, -1)
    assert torch.equal(
        decode_map(npy(values), MapSpec("a", whole.shape[2])), torch.tensor(whole.astype("f4")).permute(2, 0, 1)
    )


def test_truth_values_are_black_and_white() -> None:
    values = drawn(1, np.uint8) > 100
    assert torch.equal(decode_map(npy(values), DEPTH)[0], torch.from_numpy(values[..., 0]).float() * 2 - 1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npy(np.zeros(SIZE, dtype=np.int64)), "int64"),
        (npy(np.array([[None, {}]])), "object"),
        (npy(np.full(SIZE, 7.5)), "7.5"),
        (npy(np.array([[0.5, np.nan]])), "nan"),
        (npy(np.zeros((2, 3, 4, 5), dtype=np.uint8)), r"\(2, 3, 4, 5\)"),
        (npy(np.zeros((0, 3), dtype=np.uint8)), r"\(0, 3\)"),
        (npy(np.zeros((40, 30), dtype=np.uint8)), "max_pixels=1000"),
        (npy(np.zeros(SIZE, dtype=np.uint8))[:-1], "damaged"),
        (npy(np.zeros(SIZE, dtype=np.uint8))[:50], "damaged"),
        (npy(np.zeros((*SIZE, 4), dtype=np.uint8)), "channels=1"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "damaged"),
        (b"no picture", "not a picture"),
    ],
)
def test_what_has_no_known_range_or_is_damaged_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(DECODE_ERRORS, match=says):
        decode_map(content, DEPTH, max_pixels=1000)


def test_a_header_of_a_huge_array_takes_no_memory() -> None:
    content = npy(np.zeros((1, 1), dtype=np.uint8))
    huge = content.replace(b"(1, 1), }" + b" " * 9, b"(1, 1, 10000000000)}"[:18])
    assert huge != content
    assert len(huge) == len(content)
    with pytest.raises(ValueError, match="damaged"):
        decode_map(huge, DEPTH)


def test_a_large_file_of_an_array_is_read_and_another_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(npy(np.zeros((1100, 1000), dtype=np.uint8)))
    assert decode_map(PictureFile(path).read(), DEPTH).shape == (1, 1100, 1000)
    path.write_bytes(bytes(2 * 2**20))
    with pytest.raises(ValueError, match="not a picture"):
        PictureFile(path).read()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_map_is_turned_as_its_picture_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(drawn(3, np.uint8)).save(file, "PNG", exif=exif)
    picture = decode_picture(file.getvalue())
    assert read_map_size(file.getvalue()) == (picture.height, picture.width)
    assert np.array_equal(as_stored(file.getvalue(), MapSpec("a", 3), np.uint8), np.asarray(picture))


def shaded(size: tuple[int, int]) -> Image.Image:
    """A smooth picture in grey without any symmetry."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(float)
    y, x = (y + 0.5) / size[0], (x + 0.5) / size[1]
    return Image.fromarray((40 + 120 * x**2 + 60 * y + 30 * np.sin(7 * x + 4 * y)).astype(np.uint8))


CROPS = [
    CentreCrop(32, mirrored=True),
    RandomCrop(32, views=3, mirrored=True),
    Buckets(32, step=8, mirrored=True),
    FitCrop(32, mirrored=True),
]


@pytest.mark.parametrize("crop", CROPS, ids=lambda crop: type(crop).__name__)
@pytest.mark.parametrize("size", [(64, 96), (150, 50), (36, 40)])
@pytest.mark.parametrize("scale", [0.5, 1, 2])
def test_a_map_shows_what_its_picture_shows_in_every_view(crop: Crop, size: tuple[int, int], scale: float) -> None:
    picture = shaded(size).convert("RGB")
    values = decode_map(png(np.asarray(shaded((round(size[0] * scale), round(size[1] * scale))))), DEPTH)
    views = crop(size, "ab" * 32)
    assert len(views) == crop.views
    for view in views:
        seen = Image.fromarray(render_view(picture, view, background="black")).convert("L")
        small = seen.resize((view.width // 4, view.height // 4), Image.Resampling.BILINEAR)
        expected = torch.from_numpy(np.array(small)).float() / 127.5 - 1
        (cut,) = render_map(values, view, DEPTH, factor=4)
        assert cut.shape == expected.shape
        inner = expected > -1 if isinstance(crop, FitCrop) else torch.ones_like(expected).bool()
        assert (cut - expected)[inner].abs().mean() < 0.02
        assert (cut - expected)[inner].abs().max() < (0.25 if isinstance(crop, FitCrop) else 0.06)  # at the edge
        assert (cut.flip(-1) - expected)[inner].abs().mean() > 0.1, "a mirrored one would be noticed"


@pytest.mark.parametrize("crop", CROPS, ids=lambda crop: type(crop).__name__)
def test_an_encoded_map_is_resized_as_pictures_are(crop: Crop) -> None:
    pixels = np.random.default_rng(0).integers(80, 176, (45, 77, 3), dtype=np.uint8)  # which no overshoot takes out of range
    spec = MapSpec("drawn", encoded=True)
    values = decode_map(png(pixels), spec)
    for view in crop(pixels.shape[:2], "ab" * 32):
        seen = torch.from_numpy(render_view(Image.fromarray(pixels), view, background="black")).permute(2, 0, 1)
        cut = render_map(values, view, spec, factor=4)
        assert ((cut + 1) * 127.5 - seen).abs().max() <= 1.5, "the picture was rounded twice"


@pytest.mark.parametrize("crop", CROPS, ids=lambda crop: type(crop).__name__)
@pytest.mark.parametrize("factor", [1, 4])
def test_labels_are_never_blended(crop: Crop, factor: int) -> None:
    numbers = np.random.default_rng(0).choice(np.array([3, 90, 255], dtype=np.uint8), size=(45, 77))
    values = decode_map(png(numbers), LABELS)
    there = {*values.unique().tolist()} | ({-1.0} if isinstance(crop, FitCrop) else set())
    for view in crop((45, 77), "ab" * 32):
        cut = render_map(values, view, LABELS, factor=factor)
        assert {*cut.unique().tolist()} == there


def test_a_map_of_its_views_size_is_taken_as_it_is() -> None:
    values = decode_map(npy(drawn(2)[:4, :8]), MapSpec("a", 2))
    (view,) = CentreCrop(16)((16, 32), "ab" * 32)
    for spec in (DEPTH, LABELS):
        torch.testing.assert_close(render_map(values, view, spec, factor=4), values[:, :, 2:6])


@pytest.mark.parametrize(
    ("size", "picture", "fits"),
    [
        ((100, 200), (100, 200), True),
        ((50, 100), (100, 200), True),
        ((333, 500), (1000, 1501), True),
        ((1000, 1501), (33, 50), True),
        ((8, 12), (333, 500), True),
        ((200, 100), (100, 200), False),
        ((100, 100), (100, 200), False),
        ((100, 203), (100, 200), False),
    ],
)
def test_the_aspect_ratio_is_compared_to_a_pixel_of_the_smaller(
    size: tuple[int, int], picture: tuple[int, int], fits: bool
) -> None:
    if fits:
        check_aspect("depth", size, picture)
        return
    with pytest.raises(MapError, match=f"depth.*{size[1]}x{size[0]}.*{picture[1]}x{picture[0]}"):
        check_aspect("depth", size, picture)


STRETCHED = MapSpec("depth", normalized=True)


@pytest.mark.parametrize("size", [(48, 48), (32, 64)])
def test_a_normalized_map_is_resized_and_stretched_as_the_network_for_depth_has_it(size: tuple[int, int]) -> None:
    """By the steps of diffusers' pipeline: cubic interpolation without antialiasing, then from the least to the largest."""
    values = decode_map(png(np.asarray(shaded(size))), STRETCHED)
    view = CentreCrop(32)((size[0], size[0]), "ab" * 32)[0] if size[0] == size[1] else View(32, 64, 0, 0, 32, 64)
    small = torch.nn.functional.interpolate(values[None], (view.height // 8, view.width // 8), mode="bicubic")[0]
    expected = 2 * (small - small.min()) / (small.max() - small.min()) - 1
    cut = render_map(values, view, STRETCHED, factor=8)
    torch.testing.assert_close(cut, expected, rtol=0, atol=1e-5)
    turned = render_map(values, replace(view, mirrored=True), STRETCHED, factor=8)
    torch.testing.assert_close(turned, cut.flip(-1), rtol=0, atol=0)


@pytest.mark.parametrize("crop", CROPS, ids=lambda crop: type(crop).__name__)
def test_a_normalized_map_fills_its_range_in_every_view(crop: Crop) -> None:
    values = decode_map(png(np.asarray(shaded((45, 77)))), STRETCHED)
    for view in crop((45, 77), "ab" * 32):
        cut = render_map(values, view, STRETCHED, factor=4)
        assert (cut.min(), cut.max()) == (-1, 1)
        plain = render_map(values, view, DEPTH, factor=4)
        inner = plain > -1
        assert torch.corrcoef(torch.stack([cut[inner], plain[inner]]))[0, 1] > 0.97


def test_a_map_of_one_value_is_normalized_to_zero() -> None:
    view = CentreCrop(16)((16, 16), "ab" * 32)[0]
    assert not render_map(torch.full((1, 16, 16), 0.3), view, STRETCHED, factor=4).any()


def test_only_normalized_maps_have_that_in_the_names_of_their_rows() -> None:
    assert "normalized" not in DEPTH.identity
    assert STRETCHED.identity == DEPTH.identity | {"normalized": True}
