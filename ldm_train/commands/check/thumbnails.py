"""Decode pictures for a check's page as training decodes them, small, and with the crop drawn."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from ldm_train.data.pictures.crops import View
from ldm_train.data.pictures.decoding import DECODE_ERRORS, decode_picture
from ldm_train.data.pictures.pixel_values import draw_values
from ldm_train.data.scan.inspection import Decoder
from ldm_train.data.sources.items import EncodedPicture
from ldm_train.reports.embedded_pictures import THUMBNAIL_SIDE

CROP_COLOUR = (255, 0, 255)
SHADE = 0.5  # of the background's brightness, over what is cut away


def make_thumbnail(picture: EncodedPicture | None, decoder: Decoder) -> Image.Image | None:
    """Return a small picture in the colours that training sees; None if it cannot be read (any more) or decoded."""
    try:
        content = None if picture is None else picture.read()
        if content is None:
            return None
        background, max_pixels = decoder.background, decoder.max_pixels
        if decoder.pixels is None:
            decoded = decode_picture(content, background=background, max_pixels=max_pixels)
        else:
            decoded = draw_values(decoder.pixels.read(content, background=background, max_pixels=max_pixels))
    except DECODE_ERRORS:
        return None
    decoded.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return decoded


def draw_crops(thumbnail: Image.Image | None, views: Sequence[View]) -> Image.Image | None:
    """Return a thumbnail with a frame around what each view keeps of the picture, and the rest darkened."""
    if thumbnail is None:
        return None
    boxes = [scale_view(view, thumbnail.size) for view in views]
    marked = Image.blend(thumbnail, Image.new("RGB", thumbnail.size), SHADE)
    for box in boxes:
        marked.paste(thumbnail.crop(box), box[:2])
    for left, top, right, bottom in boxes:
        ImageDraw.Draw(marked).rectangle((left, top, right - 1, bottom - 1), outline=CROP_COLOUR)
    return marked


def scale_view(view: View, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return what a view keeps of a picture, (left, top, right, bottom) on a copy of it with this (width, height)."""
    across, down = size[0] / view.resized_width, size[1] / view.resized_height
    left, right = max(0, view.left), min(view.left + view.width, view.resized_width)
    top, bottom = max(0, view.top), min(view.top + view.height, view.resized_height)
    left, top = min(round(left * across), size[0] - 1), min(round(top * down), size[1] - 1)
    return left, top, max(left + 1, round(right * across)), max(top + 1, round(bottom * down))
