"""Plans of resizing and cropping: inside the picture, covering, turned with it, decided by the digest alone."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ldm_train.data.cache.encoding_batches import PictureRow
from ldm_train.data.pictures.crops import Buckets, CentreCrop, Crop, FitCrop, RandomCrop, View
from ldm_train.data.pictures.decoding import render_view
from ldm_train.data.sources.items import Item, PictureFile
from ldm_train.training.rendering import Rendering

CONFIGS = Path(__file__).parents[2] / "conf/crop"
CROPS: dict[str, Crop] = {
    "centre": CentreCrop(256),
    "centre_mirrored": CentreCrop(96, mirrored=True),
    "random": RandomCrop(256),
    "random_mirrored": RandomCrop(64, views=3, mirrored=True),
    "random_kept": RandomCrop(64, keep_scale=True),
    "buckets": Buckets(512),
    "buckets_of_areas": Buckets(512, areas=[256, 512, 1024], max_aspect=3.0),
    "buckets_fine": Buckets(64, step=8, mirrored=True),
    "buckets_square": Buckets(256, max_aspect=1.0),
}

sides = st.integers(1, 5000) | st.sampled_from([1, 2, 30000])
sizes = st.tuples(sides, sides)
crops = st.sampled_from(sorted(CROPS)).map(CROPS.__getitem__)
digests = st.integers(0, 2**256 - 1).map("{:064x}".format)


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@given(crops, sizes, digests)
def test_views_lie_inside_the_resized_picture_which_just_covers_them(crop: Crop, size: tuple[int, int], key: str) -> None:
    views = crop(size, key)
    assert len(views) == crop.views
    assert len({(view.height, view.width) for view in views}) == 1
    for view in views:
        assert (view.height, view.width) in crop.shapes
        assert 0 <= view.top <= view.resized_height - view.height
        assert 0 <= view.left <= view.resized_width - view.width
        resized = (view.resized_height, view.resized_width)
        covers = view.resized_height == view.height or view.resized_width == view.width
        assert covers or (crop is CROPS["random_kept"] and resized == size)


@given(crops, sizes)
def test_the_aspect_is_kept_to_half_a_pixel(crop: Crop, size: tuple[int, int]) -> None:
    view = crop(size, digest(0))[0]
    scale = crop.scale(size)
    assert abs(view.resized_height - size[0] * scale) <= 0.5 + 1e-6
    assert abs(view.resized_width - size[1] * scale) <= 0.5 + 1e-6


@given(crops, sizes)
def test_lost_is_the_share_that_is_cut_away(crop: Crop, size: tuple[int, int]) -> None:
    view = crop(size, digest(0))[0]
    kept = view.height * view.width / (view.resized_height * view.resized_width)
    assert crop.lost(size) == pytest.approx(1 - kept)
    assert 0 <= crop.lost(size) < 1


@given(crops, sizes, digests)
def test_a_turned_picture_gets_turned_views(crop: Crop, size: tuple[int, int], key: str) -> None:
    def turned(view: View) -> View:
        return View(view.resized_width, view.resized_height, view.left, view.top, view.width, view.height, view.mirrored)

    assert crop(size[::-1], key) == [turned(view) for view in crop(size, key)]
    assert crop.lost(size[::-1]) == crop.lost(size)
    assert crop.scale(size[::-1]) == crop.scale(size)


@given(crops, sizes, digests)
def test_views_are_the_same_each_time(crop: Crop, size: tuple[int, int], key: str) -> None:
    assert crop(size, key) == crop(size, key)


@pytest.mark.parametrize("crop", [crop for crop in CROPS.values() if crop.mirrored])
def test_each_view_is_followed_by_its_mirror_image(crop: Crop) -> None:
    views = crop((300, 700), digest(0))
    assert [view.mirrored for view in views] == [False, True] * (crop.views // 2)
    assert [replace(view, mirrored=True) for view in views[::2]] == views[1::2]


@pytest.mark.parametrize(("size", "view"), [((100, 50), View(64, 32, 16, 0, 32, 32)), ((7, 8), View(32, 37, 0, 2, 32, 32))])
def test_the_centre_is_cut(size: tuple[int, int], view: View) -> None:
    assert CentreCrop(32)(size, digest(0)) == [view]


@given(sizes, st.booleans())
def test_fit_keeps_the_whole_picture_in_the_middle(size: tuple[int, int], mirrored: bool) -> None:
    crop = FitCrop(64, mirrored=mirrored)
    views = crop(size, digest(0))
    assert len(views) == crop.views
    for view in views:
        assert (view.height, view.width) == (64, 64)
        assert max(view.resized_height, view.resized_width) == 64
        for start, resized in ((view.top, view.resized_height), (view.left, view.resized_width)):
            before, after = -start, 64 - resized + start
            assert before >= 0 <= after
            assert before - after in (0, 1)
        assert view.resized_height == max(1, round_half_up(size[0] * 64, max(size)))
    assert crop.lost(size) == 0
    assert crop.scale(size) == 64 / max(size)


def round_half_up(number: int, by: int) -> int:
    return (2 * number + by) // (2 * by)


@pytest.mark.parametrize("size", [(16, 8), (8, 16), (16, 16), (300, 7), (5, 9)])
def test_fit_puts_the_background_around_and_nothing_else(size: tuple[int, int]) -> None:
    (view,) = FitCrop(16)(size, "")
    picture = Image.new("RGB", size[::-1], (200, 10, 10))
    image = render_view(picture, view, background="blue")
    inside = (image == (200, 10, 10)).all(-1)
    assert (image[~inside] == (0, 0, 255)).all()
    assert inside.sum() == view.resized_height * view.resized_width
    assert inside[-view.top : -view.top + view.resized_height, -view.left : -view.left + view.resized_width].all()
    assert np.array_equal(render_view(picture, replace(view, mirrored=True), background="blue"), image[:, ::-1])


def test_encoding_puts_the_cache_s_background_around(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 16), "red").save(picture)
    row = PictureRow("name", hashlib.sha256(picture.read_bytes()).hexdigest(), "a.png", [16, 8])
    rendering = Rendering(
        {"a.png": Item("a.png", PictureFile(picture), (), "")}, FitCrop(16), background="#0000ff", max_pixels=1000
    )
    (image,) = rendering(row)
    assert image[:, 8, 8].tolist() == [255, 0, 0]
    assert image[:, 8, 0].tolist() == image[:, 0, 15].tolist() == [0, 0, 255]


def test_random_places_are_others_for_other_pictures_and_spread_evenly() -> None:
    crop = RandomCrop(10, views=2)
    places = [[view.left for view in crop((10, 20), digest(number))] for number in range(2000)]
    assert len({tuple(pair) for pair in places}) == 11**2
    counts = [sum(pair.count(left) for pair in places) for left in range(11)]
    assert sum(counts) == 4000
    assert all(280 < count < 450 for count in counts)


def test_random_places_do_not_change_between_versions() -> None:
    """They are stored in caches, whose rows are found again by them."""
    assert [view.left for view in RandomCrop(64)((64, 1000), "0" * 64)] == [177, 7, 843, 603]


@given(sizes, digests)
def test_crops_that_keep_the_scale_are_of_the_picture_as_it_is(size: tuple[int, int], name: str) -> None:
    crop = RandomCrop(64, keep_scale=True)
    resized = {(view.resized_height, view.resized_width) for view in crop(size, name)}
    assert resized == {size if min(size) >= 64 else RandomCrop(64).resize(size)}
    assert crop.scale(size) == max(1.0, RandomCrop(64).scale(size))
    assert crop.identity != RandomCrop(64).identity


def test_shapes_of_the_default_buckets() -> None:
    assert Buckets(512).shapes == [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]
    assert Buckets(256).shapes == [(192, 320), (256, 256), (320, 192)]
    assert CentreCrop(40).shapes == RandomCrop(40).shapes == [(40, 40)]


areas = st.lists(st.integers(1, 16), min_size=1, max_size=3)


@given(areas, st.sampled_from([8, 32, 64]), st.floats(1, 4))
def test_shapes_are_near_their_area_and_within_the_aspect(areas: list[int], step: int, max_aspect: float) -> None:
    crop = Buckets(step, areas=[step * area for area in areas], step=step, max_aspect=max_aspect)
    assert crop.shapes == sorted(set(crop.shapes))
    for height, width in crop.shapes:
        assert (width, height) in crop.shapes
        assert height % step == width % step == 0
        assert max(height, width) <= max_aspect * min(height, width)
        near = [
            step * area
            for area in areas
            if height * width <= (step * area) ** 2 < height * width + step * max(height, width)
        ]
        assert near, f"no area lies just above {height}x{width}"
    assert {(step * area, step * area) for area in areas} <= set(crop.shapes)


@given(st.floats(-0.9, 0.9), st.integers(700, 4000))
def test_aspects_within_the_range_lose_little(log_aspect: float, width: int) -> None:
    crop = Buckets(1024)
    size = (round(width * 2 ** (log_aspect * 0.95)), width)
    view = crop(size, digest(0))[0]
    error = abs(math.log(size[0] / size[1]) - math.log(view.height / view.width))
    assert error < math.log(1.11)
    assert crop.lost(size) < 0.1


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((1024, 1024), (1024, 1024)),
        ((1023, 1023), (512, 512)),
        ((2000, 1500), (1152, 896)),
        ((600, 800), (448, 576)),
        ((100, 100), (256, 256)),
        ((10, 4000), (192, 320)),
    ],
)
def test_a_picture_goes_to_the_largest_area_that_does_not_enlarge_it(size: tuple[int, int], shape: tuple[int, int]) -> None:
    crop = Buckets(1024, areas=[256, 512, 1024])
    assert crop.shape(size) == shape
    assert (crop.scale(size) > 1) == (min(size) < 192)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 0}, "crop.step=0 must be positive"),
        ({"step": 48}, r"image_size=512 must be a positive multiple of crop\.step=48"),
        ({"areas": []}, r"crop\.areas=\[\] names no area"),
        ({"areas": [512, 500]}, r"crop\.areas=500 must be a positive multiple of crop\.step=64"),
        ({"areas": [-64]}, r"crop\.areas=-64"),
        ({"max_aspect": 0.5}, r"crop\.max_aspect=0\.5"),
        ({"max_aspect": math.inf}, r"crop\.max_aspect=inf"),
        ({"max_aspect": math.nan}, r"crop\.max_aspect=nan"),
    ],
)
def test_bad_settings_of_buckets_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Buckets(512, **settings)


@pytest.mark.parametrize("make", [CentreCrop, FitCrop, RandomCrop, Buckets])
@pytest.mark.parametrize("image_size", [0, -64])
def test_image_size_is_positive(make: type[Crop], image_size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size={image_size} must be"):
        make(image_size)


def test_a_random_crop_has_a_view() -> None:
    with pytest.raises(ValueError, match=r"crop\.views=0 must be positive"):
        RandomCrop(64, views=0)


@pytest.mark.parametrize("make", [CentreCrop, FitCrop, RandomCrop, Buckets])
def test_the_configs_hold_every_setting_at_its_default(make: type[Crop]) -> None:
    name = {CentreCrop: "centre", FitCrop: "fit", RandomCrop: "random", Buckets: "buckets"}[make]
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert config.pop("_target_") == f"ldm_train.data.pictures.crops.{make.__name__}"
    assert config == make.__init__.__kwdefaults__
    assert vars(make(256, **config)) == vars(make(256))
