"""Picture files to tensors: every kind of file decoded or refused, crops; and back."""

import hashlib
import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.testing import assert_close

from ldm_train.data.pictures.crops import Buckets, CentreCrop, View
from ldm_train.data.pictures.decoding import (
    ENCODING_VERSION,
    decode_picture,
    describe_decode_error,
    find_profile_problem,
    read_upright_size,
    render_view,
)
from ldm_train.data.pictures.images import DECODE_ERRORS, read_image, save_png, to_bytes, to_signed
from tests.data.bad_pictures import Case, bad_pictures, cases, quarters, saved

CASES = {case.name: case for case in cases()}
USED = [case for case in CASES.values() if case.seen is not None]
REFUSED = [case for case in CASES.values() if case.reason is not None]
GOLDEN = Path(__file__).with_name("golden_pixels.json")
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
    grey = to_bytes(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 5))
    assert grey[:, 0].tolist() == [[0, 0, 128, 255, 255]] * 3


def test_the_cases_are_many_and_named_once() -> None:
    assert len(CASES) == len(cases()) == len(bad_pictures()) > 90
    assert all((case.reason is None) != (case.seen is None) for case in CASES.values())


@pytest.mark.parametrize("case", USED, ids=lambda case: case.name)
def test_odd_pictures_are_seen_rightly(case: Case) -> None:
    picture = decode_picture(case.content)
    assert picture.mode == "RGB"
    assert picture.size == case.seen.size
    assert read_upright_size(case.content) == (picture.height, picture.width)
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(case.seen)).max() <= case.tolerance


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_cannot_be_used_is_refused_with_its_reason_on_one_line(case: Case) -> None:
    with pytest.raises(DECODE_ERRORS) as caught:
        decode_picture(case.content)
    problem = describe_decode_error(caught.value)
    assert case.reason in problem
    assert "\n" not in problem
    assert " object at 0x" not in problem


@pytest.mark.parametrize(
    "name", ["empty.png", "error_page.jpg", "float.tif", "size_30000x30000.png", "png_header_crc_wrong"]
)
def test_the_header_is_enough_to_refuse(name: str) -> None:
    with pytest.raises(DECODE_ERRORS, match=CASES[name].reason):
        read_upright_size(CASES[name].content)


def test_max_pixels_is_the_largest_that_passes() -> None:
    content = saved(quarters(), "PNG")
    assert read_upright_size(content, max_pixels=64 * 32) == (32, 64)
    for read in (read_upright_size, decode_picture, find_profile_problem):
        with pytest.raises(DECODE_ERRORS, match="64x32 pixels are more than max_pixels=2047"):
            read(content, max_pixels=64 * 32 - 1)


def test_damage_behind_the_header_is_found_where_pixels_are_read() -> None:
    assert read_upright_size(CASES["png_cut_at_50_percent"].content) == (64, 64)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("profile_broken.png", "its ICC profile is broken: cannot open profile from string"),
        ("profile_nonsense.jpg", "its ICC profile is broken: cannot open profile from string"),
        ("profile_of_grey_on_colours.png", "its ICC profile is for GRAY, its colours are RGB"),
        ("display_p3.png", None),
        ("display_p3_palette.png", None),
        ("linear_grey.png", None),
        ("cmyk_profile.jpg", None),
        ("srgb.png", None),
        ("srgb_on_grey.jpg", None),
        ("rgba.png", None),
    ],
)
def test_a_profile_that_is_ignored_is_reported(name: str, problem: str | None) -> None:
    assert find_profile_problem(CASES[name].content) == problem


def test_a_profile_of_srgb_leaves_every_value_as_it_is() -> None:
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(CASES["srgb.png"].content)) as picture:
        profile = picture.info["icc_profile"]
    assert np.array_equal(np.asarray(decode_picture(saved(Image.fromarray(values), "PNG", icc_profile=profile))), values)


@pytest.mark.parametrize(
    ("background", "seen"), [("white", WHITE), ("black", (0, 0, 0)), ("#0000ff", BLUE), ("Lime", GREEN)]
)
def test_transparency_shows_the_background(background: str, seen: tuple[int, ...]) -> None:
    assert decode_picture(saved(Image.new("RGBA", (4, 4)), "PNG"), background=background).getpixel((0, 0)) == seen


@pytest.mark.parametrize("background", ["whiet", "#12", "", "#ff000080"])
def test_a_background_that_is_no_opaque_colour_is_refused(background: str) -> None:
    with pytest.raises(ValueError, match="background="):
        decode_picture(saved(quarters(), "PNG"), background=background)


def test_decoding_in_threads_gives_the_same_and_changes_none_of_pillows_settings() -> None:
    expected = {case.name: np.asarray(decode_picture(case.content)) for case in USED}
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda case: (case.name, np.asarray(decode_picture(case.content))), USED * 4))
    assert all(np.array_equal(values, expected[name]) for name, values in results)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.slow
def test_a_scan_needs_no_torch() -> None:
    code = "import sys, ldm_train.data.pictures.decoding; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_view_is_the_resized_picture_cut_and_mirrored() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    whole = np.asarray(picture.resize((45, 20), Image.Resampling.BICUBIC))
    assert np.array_equal(render_view(picture, View(20, 45, 2, 7, 16, 24)), whole[2:18, 7:31])
    assert np.array_equal(render_view(picture, View(20, 45, 2, 7, 16, 24, mirrored=True)), whole[2:18, 7:31][:, ::-1])
    assert np.array_equal(render_view(picture, View(40, 90, 2, 7, 16, 24)), np.asarray(picture)[2:18, 7:31])


@pytest.mark.parametrize("size", [(30, 3000), (3000, 30), (7, 2999)])
def test_of_a_long_strip_only_the_view_is_resized(size: tuple[int, int]) -> None:
    """It differs from cutting the whole resized strip by single levels."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    (view,) = CentreCrop(16)(size, "")
    whole = picture.resize((view.resized_width, view.resized_height), Image.Resampling.BICUBIC)
    cut = np.asarray(whole)[view.top : view.top + 16, view.left : view.left + 16]
    assert np.abs(render_view(picture, view).astype(int) - cut).max() <= 1


def test_a_strip_one_pixel_wide_fits_in_memory() -> None:
    picture = Image.new("RGB", (1, 30000), RED)
    (view,) = CentreCrop(512)((30000, 1), "")
    assert np.array_equal(render_view(picture, view), np.full((512, 512, 3), RED))


@pytest.mark.parametrize("size", [(24, 8), (9, 31), (40, 40)])
def test_an_image_is_the_centre_crops_view(size: tuple[int, int]) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    (view,) = CentreCrop(8)(size, "")
    assert np.array_equal(read_image(saved(picture, "PNG"), 8).permute(1, 2, 0).numpy(), render_view(picture, view))


def gradient(height: int, width: int) -> np.ndarray:
    """Values without a random generator, whose numbers may change with its version."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 7 + y, y * 5 + x * x // 9, x * y // 4 + 31], axis=-1).astype(np.uint8)


def rendered() -> dict[str, np.ndarray]:
    """What an encoder is given for lossless pictures without profiles, since lcms may come to round otherwise."""
    colours = Image.fromarray(gradient(48, 80))
    alpha = colours.copy()
    alpha.putalpha(Image.fromarray(gradient(48, 80)[..., 0]))
    deep = Image.fromarray(gradient(48, 80)[..., 0].astype(np.uint16) * 200)
    exif = Image.Exif()
    exif[0x0112] = 7
    files = {
        "rgb.png": saved(colours, "PNG"),
        "rgba.png": saved(alpha, "PNG"),
        "grey_16.png": saved(deep, "PNG"),
        "turned.png": saved(colours, "PNG", exif=exif),
        "palette.gif": saved(Image.fromarray(gradient(48, 80)[..., 1]), "GIF"),
        "cmyk.tif": saved(colours.convert("CMYK"), "TIFF"),
    }
    images = {}
    for name, content in files.items():
        picture, (height, width) = decode_picture(content), read_upright_size(content)
        images[f"{name} as it is"] = render_view(picture, View(height, width, 0, 0, height, width))
        for side in (24, 64):
            for view in CentreCrop(side, mirrored=True)((height, width), ""):
                images[f"{name} centre {side}{' mirrored' * view.mirrored}"] = render_view(picture, view)
        (view,) = Buckets(32, step=8)((height, width), "")
        images[f"{name} bucket"] = render_view(picture, view)
    images["strip"] = render_view(Image.fromarray(gradient(5, 400)), CentreCrop(16)((5, 400), "")[0])
    return images


def test_other_pixels_need_another_encoding_version() -> None:
    """Latent caches are named by the version: who changes these pixels raises ENCODING_VERSION.

    Then `python -m tests.data.test_images` writes the new file.
    """
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden["encoding_version"] == ENCODING_VERSION
    assert golden["sha256"] == digests()


def digests() -> dict[str, str]:
    return {
        name: hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest() for name, image in rendered().items()
    }


if __name__ == "__main__":
    GOLDEN.write_text(
        json.dumps({"encoding_version": ENCODING_VERSION, "sha256": digests()}, indent=2) + "\n", encoding="utf-8"
    )
