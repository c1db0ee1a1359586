"""Picture files to tensors: orientation, transparency, palettes, crops; and back."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ldm_train.data.images import DECODE_ERRORS, read_image, save_png, to_bytes, to_signed

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants() -> Image.Image:
    """Red, green / blue, white, two pixels each way."""
    picture = Image.new("RGB", (4, 4))
    for place, colour in {(0, 0): RED, (2, 0): GREEN, (0, 2): BLUE, (2, 2): WHITE}.items():
        picture.paste(colour, (*place, place[0] + 2, place[1] + 2))
    return picture


def corners(image: torch.Tensor) -> list[tuple[int, ...]]:
    """Colours of the corners, reading order."""
    return [tuple(image[:, y, x].tolist()) for y in (0, -1) for x in (0, -1)]


def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path: Path) -> None:
    values = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    save_png(values, tmp_path / "deep/a.png")
    read = read_image(tmp_path / "deep/a.png", 8)
    assert read.dtype == torch.uint8
    assert torch.equal(read, values)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (8, [GREEN, WHITE, RED, BLUE]),
    ],
)
def test_exif_orientation_is_followed(orientation: int, upright: list[tuple[int, ...]], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    quadrants().save(tmp_path / "a.png", exif=exif)
    assert corners(read_image(tmp_path / "a.png", 4)) == upright


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("LA", (0, 0), WHITE),
        ("LA", (80, 255), (80, 80, 80)),
        ("L", 80, (80, 80, 80)),
        ("1", 1, WHITE),
        ("RGB", RED, RED),
    ],
)
def test_every_mode_becomes_colour_on_white(mode: str, colour: int, seen: tuple[int, ...], tmp_path: Path) -> None:
    Image.new(mode, (4, 4), colour).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 4)
    assert image.shape == (3, 4, 4)
    assert corners(image) == [seen] * 4


@pytest.mark.parametrize(("mode", "colour", "seen"), [("CMYK", (0, 255, 255, 0), RED), ("L", 80, (80, 80, 80))])
def test_jpeg_modes(mode: str, colour: int, seen: tuple[int, ...], tmp_path: Path) -> None:
    Image.new(mode, (8, 8), colour).save(tmp_path / "a.jpg", quality=95)
    assert_close(read_image(tmp_path / "a.jpg", 8)[:, 4, 4].int(), torch.tensor(seen).int(), atol=3, rtol=0)


@pytest.mark.parametrize("transparent", [False, True])
def test_palette(transparent: bool, tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([*BLUE, *RED])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "a.png", **({"transparency": 0} if transparent else {}))
    assert corners(read_image(tmp_path / "a.png", 4)) == [WHITE if transparent else BLUE, RED, RED, RED]


def test_a_transparent_colour_without_alpha_is_put_on_white(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "a.png", transparency=RED)
    assert corners(read_image(tmp_path / "a.png", 4)) == [WHITE, GREEN, BLUE, WHITE]


def test_sixteen_bits_of_grey_keep_their_scale(tmp_path: Path) -> None:
    picture = Image.new("I;16", (4, 4), 128 * 257)
    picture.save(tmp_path / "a.png")
    assert_close(read_image(tmp_path / "a.png", 4).int(), torch.full((3, 4, 4), 128, dtype=torch.int32), atol=1, rtol=0)


@pytest.mark.parametrize("size", [(24, 8), (8, 24), (48, 16)])
def test_the_longer_side_is_cropped_in_its_centre(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    side = min(size)
    picture = Image.new("RGB", size, RED)
    left, top = (width - side) // 2, (height - side) // 2
    picture.paste(GREEN, (left, top, left + side, top + side))
    picture.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 8)
    assert image.shape == (3, 8, 8)
    assert_close(image[:, 4, 4], torch.tensor(GREEN, dtype=torch.uint8))
    assert_close(image[:, 1:-1, 1:-1].float().mean((1, 2)), torch.tensor(GREEN).float(), atol=10, rtol=0)


def test_downsizing_averages_what_it_drops(tmp_path: Path) -> None:
    """Without antialiasing a fine checkerboard would come out black or white."""
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255
    save_png(board.to(torch.uint8).expand(3, -1, -1), tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 8).float()
    assert_close(image, torch.full_like(image, 127.5), atol=3, rtol=0)


def test_a_smaller_picture_is_enlarged(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "a.png")
    assert corners(read_image(tmp_path / "a.png", 16)) == [RED, GREEN, BLUE, WHITE]


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert corners(read_image(tmp_path / "a.gif", 4)) == [RED] * 4


@pytest.mark.parametrize("damage", ["text", "empty", "half", "missing"])
def test_what_does_not_decode_raises_a_known_error(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_png(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), path)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"text": b"no picture", "empty": b"", "half": path.read_bytes()[:4000]}[damage])
    with pytest.raises(DECODE_ERRORS):
        read_image(path, 64)


def test_signed_images_are_exact_at_the_ends_and_come_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
    signed = to_signed(values)
    assert signed.dtype == torch.float32
    assert signed.min() == -1
    assert signed.max() == 1
    assert torch.equal(to_bytes(signed), values)


def test_to_bytes_clips() -> None:
    assert to_bytes(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])).tolist() == [0, 0, 128, 255, 255]
