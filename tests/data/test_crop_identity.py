"""What pictures of a cache are named by: every setting of every crop gives another identity, or the same views."""

import inspect
import json
from collections.abc import Callable
from hashlib import sha256

import pytest

from ldm_train.data.pictures import crops
from ldm_train.data.pictures.crops import Buckets, CentreCrop, Crop, FitCrop, RandomCrop, View
from ldm_train.settings.composition import build
from ldm_train.settings.shipped import shipped_part

SIZES = [(64, 64), (64, 100), (200, 90), (333, 512), (700, 128), (128, 129)]
OTHERS: dict[Callable[..., Crop], dict[str, list[object]]] = {
    CentreCrop: {"image_size": [64], "mirrored": [True]},
    FitCrop: {"image_size": [64], "mirrored": [True]},
    RandomCrop: {"image_size": [64], "mirrored": [True], "views": [3], "keep_scale": [True]},
    Buckets: {
        "image_size": [256],
        "mirrored": [True],
        "areas": [[128], [64, 128], [128, 64, 64]],
        "step": [32],
        "max_aspect": [3, 2.1],
    },
}


def views(crop: Crop) -> list[list[View]]:
    return [crop(size, sha256(str(size).encode()).hexdigest()) for size in SIZES]


def test_every_crop_is_here() -> None:
    classes = [kind for kind in vars(crops).values() if inspect.isclass(kind)]
    assert set(OTHERS) == {kind for kind in classes if issubclass(kind, Crop)} - {Crop}


@pytest.mark.parametrize("make", OTHERS)
def test_every_setting_gives_another_name_or_the_same_views(make: Callable[..., Crop]) -> None:
    assert inspect.signature(make).parameters.keys() == OTHERS[make].keys()
    wheres: list[dict[str, object]] = [{}, {"areas": [64, 128]}] if make is Buckets else [{}]
    for where in wheres:
        first = make(**{"image_size": 128} | where)  # type: ignore[arg-type]
        for name, values in OTHERS[make].items():
            for value in values:
                second = make(**{"image_size": 128} | where | {name: value})  # type: ignore[arg-type]
                assert first.identity != second.identity or views(first) == views(second), f"{name}={value}"


def test_the_same_views_said_otherwise_have_one_name() -> None:
    assert Buckets(128).identity == Buckets(128, areas=None, step=64, max_aspect=2, mirrored=False).identity
    assert Buckets(128, areas=[64, 128]).identity == Buckets(64, areas=[128, 64, 64]).identity
    assert RandomCrop(64).identity == RandomCrop(64, views=4).identity


@pytest.mark.parametrize("name", ["centre", "fit", "random", "buckets"])
def test_the_kind_is_the_options_name_and_no_path(name: str) -> None:
    crop = build(shipped_part("crop", name), "crop", image_size=64)
    assert crop.identity["kind"] == name
    assert "ldm_train" not in json.dumps(crop.identity)
