"""Thumbnails: bounded in size, free of a file's other contents, and a box where there is nothing to see."""

import base64
from io import BytesIO

import pytest
from PIL import Image

from ldm_train.reports.embedded_pictures import THUMBNAIL_SIDE, embed_thumbnail
from ldm_train.reports.page import Page, PageSection, render_page
from ldm_train.reports.page_blocks import Thumbnail, Thumbnails

SIZES = [(1, 1), (64, 48), (160, 160), (161, 20), (1200, 700), (3, 4000)]


def stored(picture: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    content = BytesIO()
    picture.save(content, kind, **settings)
    return content.getvalue()


def reread(address: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_a_thumbnail_is_bounded(mode: str) -> None:
    for size in SIZES:
        found = embed_thumbnail(Image.new(mode, size))
        assert found is not None
        small = reread(found.address)
        assert small.size == (found.width, found.height)
        assert max(small.size) == min(THUMBNAIL_SIDE, max(size))


def test_a_page_holds_nothing_of_a_file_but_its_pixels() -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    found = embed_thumbnail(Image.open(BytesIO(stored(Image.new("RGB", (400, 200)), exif=exif))))
    assert found is not None
    small = reread(found.address)
    assert not small.getexif()
    assert "comment" not in small.info


def test_the_callers_picture_stays_as_it_is() -> None:
    picture = Image.new("RGB", (400, 200))
    embed_thumbnail(picture)
    assert picture.size == (400, 200)


@pytest.mark.parametrize("damaged", [False, True])
def test_what_does_not_decode_gets_a_box(damaged: bool) -> None:
    picture = Image.open(BytesIO(stored(Image.radial_gradient("L"))[:-500])) if damaged else None
    assert embed_thumbnail(picture) is None
    html = render_page(Page("A report", sections=[PageSection("Pictures", [Thumbnails([Thumbnail(picture, "a tree")])])]))
    assert "cannot be decoded" in html
    assert "a tree" in html
    assert "<img" not in html
