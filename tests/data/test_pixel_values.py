"""Pictures that are not 8-bit RGB: what is read of files, what is refused, and what is written."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ldm_train.data.pictures.crops import Size, View, centre_view
from ldm_train.data.pictures.images import as_rgb, read_image, to_bytes
from ldm_train.data.pictures.picture_views import render_views
from ldm_train.data.pictures.pixel_values import PixelFormat, read_picture_size
from ldm_train.data.scan.inspection import Decoder, inspect_items
from ldm_train.data.sources.folder import Folder

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def as_png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()


def as_npy(values: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=allow_pickle)
    return file.getvalue()


def whole(size: Size) -> list[View]:
    return [centre_view(size, size)]


@pytest.mark.parametrize("make", [as_png, as_npy])
def test_all_16_bits_are_read_and_written_again(make: object) -> None:
    pixels = PixelFormat(1, 16)
    content = make(RAMP)  # type: ignore[operator]
    assert read_picture_size(content, pixels) == (256, 256)
    image = render_views(content, whole, pixels=pixels)[0]
    assert image.shape == (1, 256, 256)
    assert_close(image[0].double(), torch.from_numpy(RAMP.astype(np.float64)) / 32767.5 - 1, rtol=0, atol=1e-7)
    written = pixels.write(image.permute(1, 2, 0).numpy())
    assert pixels.ending == "png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(written))), RAMP)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_floats_are_read_and_written_exactly(channels: int) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (6, 8, channels)).astype(np.float32)
    pixels = PixelFormat(channels, 32)
    image = read_image(as_npy(values), None, pixels=pixels)
    assert torch.equal(image, torch.from_numpy(values).permute(2, 0, 1))
    written = np.load(io.BytesIO(pixels.write(image.permute(1, 2, 0).numpy())), allow_pickle=False)
    assert np.array_equal(written.reshape(values.shape), values)
    assert pixels.ending == "npy"


@pytest.mark.parametrize(
    ("kind", "bits", "low", "high"), [("int16", 32, -1024, 3071), ("uint16", 16, 0, 4095), ("float64", 32, 200.0, 350.0)]
)
def test_a_range_becomes_the_whole_range_and_is_written_back(kind: str, bits: int, low: float, high: float) -> None:
    values = np.linspace(low, high, 12).round().astype(kind).reshape(3, 4)
    pixels = PixelFormat(1, bits, low, high)
    image = read_image(as_npy(values), None, pixels=pixels)
    assert (image.min(), image.max()) == (-1, 1)
    stored = pixels.to_stored(image.permute(1, 2, 0).numpy())[..., 0]
    assert_close(
        torch.from_numpy(stored.astype(np.float64)), torch.from_numpy(values.astype(np.float64)), rtol=1e-6, atol=1e-3
    )


@pytest.mark.parametrize(
    ("values", "pixels", "named"),
    [
        (np.zeros((4, 4, 2), np.uint8), PixelFormat(1), ("2", "pixels.channels=1")),
        (np.arange(48, dtype=np.uint8).reshape(4, 4, 3), PixelFormat(1), ("3", "pixels.channels=1")),
        (np.zeros((4, 4), np.uint8), PixelFormat(4), ("1", "pixels.channels=4")),
        (np.zeros((4, 4), np.uint16), PixelFormat(1), ("uint16", "pixels.bits=16")),
        (np.zeros((4, 4), np.float64), PixelFormat(1, 16), ("float64", "pixels.bits=32")),
        (np.full((4, 4), np.nan, np.float32), PixelFormat(1, 32), ("nan",)),
        (np.full((4, 4), np.inf, np.float32), PixelFormat(1, 32, 0.0, 5.0), ("inf", "[0,5]")),
        (np.full((4, 4), 7, np.int32), PixelFormat(1, 32, 0.0, 5.0), ("7", "[0,5]")),
        (np.full((4, 4), 7, np.int32), PixelFormat(1, 32), ("int32",)),
        (np.zeros((4,), np.uint8), PixelFormat(1), ("(4,)",)),
    ],
)
def test_what_a_picture_cannot_be_is_named(values: np.ndarray, pixels: PixelFormat, named: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the words are checked below
        pixels.read(as_npy(values))
    for word in named:
        assert word in str(raised.value)


def test_an_array_of_objects_is_never_unpickled() -> None:
    content = as_npy(np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    for pixels in (PixelFormat(1, 32), PixelFormat(1, 32, 0.0, 1.0)):
        with pytest.raises(ValueError, match="object"):
            pixels.read(content)


def test_only_what_loses_nothing_is_converted() -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    one, three = read_image(as_png(grey), None, pixels=PixelFormat(1)), read_image(as_png(grey), None, pixels=PixelFormat(3))
    assert torch.equal(three, one.expand(3, -1, -1))
    assert torch.equal(read_image(as_png(np.stack([grey] * 3, -1)), None, pixels=PixelFormat(1)), one)


def test_a_picture_that_is_smaller_than_the_view_lies_on_the_background() -> None:
    view = View(4, 4, -2, -2, 8, 8, False)
    black = as_png(np.zeros((4, 4), np.uint8))
    image = render_views(black, lambda size: [view], pixels=PixelFormat(1), background="white")[0]
    assert (image[:, 2:6, 2:6] == -1).all()
    assert_close(image[:, :2], torch.ones(1, 2, 8))


def test_other_channels_are_seen_as_grey_or_by_the_first_three() -> None:
    images = torch.linspace(-1, 1, 5).view(1, 5, 1, 1)
    assert torch.equal(as_rgb(images), images[:, :3])
    assert torch.equal(as_rgb(images[:, :2]), images[:, :1].expand(-1, 3, -1, -1))
    assert to_bytes(images[:, :1]).shape == (1, 3, 1, 1)


def test_a_folder_of_arrays_is_one_of_pictures(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.npy").write_bytes(as_npy(np.full((4, 6), 50 * number, np.uint8)))
        (tmp_path / f"{number}.txt").write_text("waves")
    (tmp_path / "2.npy").write_bytes(as_npy(np.zeros((4, 6, 2), np.uint8)))
    items = list(Folder(str(tmp_path)))
    assert [item.key for item in items] == ["0.npy", "1.npy", "2.npy"]
    found = list(inspect_items(items, Decoder("white", 1000, pixels=PixelFormat(1))))
    assert [one.size for one in found[:2]] == [(4, 6)] * 2
    assert [one.problem is None for one in found] == [True, True, False]
    assert "pixels.channels=1" in str(found[2].problem)
    (rgb, *_) = inspect_items(items, Decoder("white", 1000))
    assert "pixels.channels" in str(rgb.problem)
