"""Thumbnails of a check's page: the colours that training sees, and the crop where it is."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_train.commands.check.check_page import SourcePictures, build_crop_blocks
from ldm_train.commands.check.dataset_facts import LARGE_LOSS, collect_picture_facts
from ldm_train.commands.check.findings import Report, judge_report
from ldm_train.commands.check.thumbnails import CROP_COLOUR, draw_crops, make_thumbnail
from ldm_train.data.cache.manifest import Provenance
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.pictures.crops import CentreCrop, Crop, FitCrop, RandomCrop
from ldm_train.data.pictures.decoding import decode_picture
from ldm_train.data.scan.inspection import Decoder, inspect_items, survey_from_inspection
from ldm_train.data.sources.items import Item, PictureBytes, PictureFile
from ldm_train.reports.page_blocks import DataTable, Thumbnails
from tests.data.bad_pictures import Case, cases

DECODER = Decoder("#00ff00", 10**6)
USED = [case for case in cases() if case.seen is not None]


@pytest.mark.parametrize("case", USED, ids=lambda case: case.name)
def test_a_thumbnail_has_the_colours_of_training(case: Case) -> None:
    thumbnail = make_thumbnail(PictureBytes(case.content), DECODER)
    assert thumbnail is not None
    decoded = decode_picture(case.content, background="#00ff00")
    if decoded.width <= 160 >= decoded.height:
        assert np.array_equal(np.asarray(thumbnail), np.asarray(decoded))
    assert max(thumbnail.size) <= 160


@pytest.mark.parametrize("picture", [None, PictureBytes(b""), PictureBytes(b"no picture"), PictureFile(Path("/none"))])
def test_what_cannot_be_decoded_has_none(picture: PictureBytes | None) -> None:
    assert make_thumbnail(picture, DECODER) is None
    assert draw_crops(None, []) is None


def test_a_picture_above_the_limit_has_none() -> None:
    file = io.BytesIO()
    Image.new("1", (1001, 1000)).save(file, "PNG")
    assert make_thumbnail(PictureBytes(file.getvalue()), DECODER) is None


@pytest.mark.parametrize("size", [(40, 160), (160, 40), (100, 120)])
def test_the_crop_is_drawn_where_it_is(size: tuple[int, int]) -> None:
    height, width = size
    marked = np.asarray(draw_crops(Image.new("RGB", (width, height), "white"), CentreCrop(64)(size, "")))
    framed = np.argwhere((marked == CROP_COLOUR).all(-1))
    side = min(size)
    (top, left), (bottom, right) = framed.min(0), framed.max(0)
    assert abs(top - (height - side) / 2) <= 1  # pixels, by rounding twice
    assert abs(left - (width - side) / 2) <= 1
    assert abs(bottom - top + 1 - side) <= 1
    assert abs(right - left + 1 - side) <= 1
    assert (marked[top + 1 : bottom, left + 1 : right] == 255).all()
    outside = np.ones(size, dtype=bool)
    outside[top : bottom + 1, left : right + 1] = False
    assert (marked[outside] < 200).all()


def items(tmp_path: Path) -> list[Item]:
    """Pictures by height and width in their names."""
    found = []
    for height, width in ((64, 64), (64, 76), (96, 64), (64, 256), (128, 64)):
        path = tmp_path / f"{height}x{width}.png"
        Image.linear_gradient("L").resize((width, height)).save(path)
        found.append(Item(path.name, PictureFile(path), ("x",), path.name))
    return found


def planned(tmp_path: Path, crop: Crop) -> tuple[Report, SourcePictures, CachePlan]:
    looked = list(inspect_items(items(tmp_path), DECODER))
    survey = survey_from_inspection(looked)
    plan = CachePlan(survey, crop, pictures=Provenance({}), captions=Provenance({}), bad={})
    return Report(collect_picture_facts(looked, plan)), SourcePictures(looked, DECODER), plan


@pytest.mark.parametrize("crop", [CentreCrop(32), RandomCrop(32, views=3)])
def test_the_pictures_that_lose_most_are_named_and_shown(crop: Crop, tmp_path: Path) -> None:
    report, pictures, plan = planned(tmp_path, crop)
    assert report.pictures.cropped == {"64x256.png": 0.75, "128x64.png": 0.5, "96x64.png": 0.333}
    assert report.pictures.upright == 2
    judge_report(report, strict=True, scale_check=False, chunk=None)
    (warning,) = [one for one in report.warnings if "64x256.png" in one]
    for part in (f"{LARGE_LOSS:.0%}", "3 of 5", "75%", "crop=fit", "crop=buckets", "2 of them are upright"):
        assert part in warning
    thumbnails, table = build_crop_blocks(report.pictures, plan, pictures)
    assert isinstance(thumbnails, Thumbnails)
    assert isinstance(table, DataTable)
    assert [one.caption for one in thumbnails.pictures] == list(report.pictures.cropped)
    for one in thumbnails.pictures:
        assert one.picture is not None
        assert (np.asarray(one.picture) == CROP_COLOUR).all(-1).any()


def test_what_is_kept_whole_is_not_named(tmp_path: Path) -> None:
    report, pictures, plan = planned(tmp_path, FitCrop(32))
    assert report.pictures.cropped == {}
    assert build_crop_blocks(report.pictures, plan, pictures) == []
    judge_report(report, strict=True, scale_check=False, chunk=None)
    assert not any("crop" in warning for warning in report.warnings)
