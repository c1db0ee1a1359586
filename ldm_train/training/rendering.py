"""The bytes of a picture and its maps to their views, as the encoder gets them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.data.cache.encoding_batches import PictureRow
from ldm_train.data.pictures.crops import Crop, View
from ldm_train.data.pictures.decoding import DECODE_ERRORS
from ldm_train.data.pictures.images import to_signed
from ldm_train.data.pictures.map_values import describe_map_error
from ldm_train.data.pictures.maps import MapError, MapSpec, decode_map, render_map
from ldm_train.data.pictures.picture_views import render_views
from ldm_train.data.pictures.pixel_values import PixelFormat
from ldm_train.data.pictures.random_masks import draw_mask
from ldm_train.data.pictures.reduced import reduce_views
from ldm_train.data.sources.items import EncodedPicture, Item
from ldm_train.util.inputs import READ_ERRORS, describe_error

MASKED = 4  # channels of a mask and of the picture that it leaves


class UnreadError(Exception):
    """A picture's bytes could not be had this time, which says nothing of the picture."""


@dataclass(frozen=True)
class Rendered:
    """All views of a picture, as `render_views` returns them, and of its maps, (V, C, h, w) float32 in [-1, 1], by name."""

    images: Tensor
    maps: dict[str, Tensor]


class Rendering:
    """A picture's bytes, and those of its maps, to its views.

    Args:
        items: the pictures with their maps, by key.
        background: what shows through or around pictures, a colour's name.
        max_pixels: larger pictures are refused.
        specs: the maps that are rendered.
        factor: pixels of a view for each value of a map that is not encoded.
        pixels: the format of values that are read as they are stored; None for 8-bit RGB.
    """

    def __init__(
        self,
        items: Mapping[str, Item],
        crop: Crop,
        *,
        background: str,
        max_pixels: int,
        specs: Sequence[MapSpec] = (),
        factor: int = 1,
        pixels: PixelFormat | None = None,
    ) -> None:
        self.items = items
        self.crop = crop
        self.background = background
        self.max_pixels = max_pixels
        self.specs = specs
        self.factor = factor
        self.pixels = pixels

    def __call__(self, row: PictureRow) -> Tensor:
        """Return the views of a picture, as `render_views` does.

        Raises:
            UnreadError: its bytes cannot be had, or are not those that were listed.
            DECODE_ERRORS: it cannot be decoded.
        """
        item = self.items.get(row.key)
        content = read_listed("it", None if item is None else item.picture, row.digest)
        return render_views(
            content,
            lambda size: self.views(row),
            pixels=self.pixels,
            background=self.background,
            max_pixels=self.max_pixels,
        )

    def maps(self, row: PictureRow, images: Tensor) -> dict[str, Tensor]:
        """Return the views of each map, (V, C, h, w) float32 in [-1, 1], by name.

        Args:
            images: the picture's views, (V, 3, H, W) uint8, of which masks and small pictures are made.

        Raises:
            UnreadError: its bytes cannot be had, or are not those that were listed.
            MapError: it cannot be decoded.
        """
        item = self.items.get(row.key)
        files, found = {} if item is None else item.maps, {}
        for spec in self.specs:
            if spec.masks:
                found[spec.name] = mask_views(images, row.digest, spec.masks)
                continue
            if spec.reduced:
                found[spec.name] = reduce_views(images, spec.reduced)
                continue
            if spec.own:
                found[spec.name] = to_signed(images)
                continue
            content = read_listed(f"its map {spec.name}", files.get(spec.name), row.maps[spec.name])
            try:
                values = decode_map(content, spec, background=self.background, max_pixels=self.max_pixels)
            except MemoryError:  # says nothing of the map
                raise
            except DECODE_ERRORS as error:
                raise MapError(describe_map_error(spec.name, error)) from error
            found[spec.name] = torch.stack([render_map(values, view, spec, factor=self.factor) for view in self.views(row)])
        return found

    def views(self, row: PictureRow) -> list[View]:
        height, width = row.size
        return self.crop((height, width), row.digest)


def read_listed(what: str, picture: EncodedPicture | None, digest: str) -> bytes:
    """Return the bytes of a picture or a map, which are those that were listed with this digest.

    Raises:
        UnreadError: they cannot be had.
    """
    if picture is None:
        raise UnreadError(f"{what} is not in the source any more")
    try:
        content = picture.read()
    except READ_ERRORS as error:
        raise UnreadError(f"{what} could not be read: {str(error) or describe_error(error)}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise UnreadError(f"{what} changed since it was listed")
    return content


def mask_views(images: Tensor, digest: str, count: int) -> Tensor:
    """Return masks of a picture's views with the pictures that they leave, (V, count * MASKED, H, W) float32.

    Each is a mask, 1 where to draw anew, and the picture in [-1, 1] with 0 there, as in `StableDiffusionInpaintPipeline`.

    Args:
        images: the views, (V, 3, H, W) uint8.
        digest: of the picture; it decides the masks.
        count: masks of each view.
    """
    size = (images.shape[2], images.shape[3])
    views = []
    for number, image in enumerate(to_signed(images)):
        masks = [torch.from_numpy(draw_mask(f"{digest}/{number}", k, size).astype("float32"))[None] for k in range(count)]
        views.append(torch.cat([part for mask in masks for part in (mask, image * (1 - mask))]))
    return torch.stack(views)
