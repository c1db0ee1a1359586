"""Thumbnails: bounded in size, free of a file's other contents, and a box where there is nothing to see."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ldm_train.reports.embedded_pictures import THUMBNAIL_SIDE, embed_thumbnail
from ldm_train.reports.page import Page, Section, render_page
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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_files_are_read(kind: str) -> None:
    found = embed_thumbnail(stored(Image.new("RGB", (640, 320), "red"), kind))
    assert found is not None
    assert (found.width, found.height) == (160, 80)
    red, green, blue = (np.asarray(band) for band in reread(found.address).split())
    assert red.min() > 245
    assert max(green.max(), blue.max()) < 10


def test_a_picture_is_upright_on_white_and_nothing_else() -> None:
    picture = Image.new("RGBA", (400, 200))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"
    content = stored(picture, exif=exif)
    found = embed_thumbnail(content)
    assert found is not None
    small = reread(found.address)
    assert small.size == (80, 160)
    assert small.getpixel((0, 0)) == (255, 255, 255)
    assert not small.getexif()
    assert "comment" not in small.info


def test_the_callers_picture_stays_as_it_is() -> None:
    picture = Image.new("RGB", (400, 200))
    embed_thumbnail(picture)
    assert picture.size == (400, 200)


@pytest.mark.parametrize("picture", [None, b"", b"no picture", stored(Image.radial_gradient("L"))[:-500]])
def test_what_does_not_decode_gets_a_box(picture: bytes | None) -> None:
    assert embed_thumbnail(picture) is None
    html = render_page(Page("A report", sections=[Section("Pictures", [Thumbnails([Thumbnail(picture, "a tree")])])]))
    assert "cannot be decoded" in html
    assert "a tree" in html
    assert "<img" not in html
