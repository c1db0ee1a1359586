"""A picture's bytes to its views as tensors: 8-bit RGB, or values as they are stored."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ldm_train.data.pictures.crops import Size, View
from ldm_train.data.pictures.decoding import decode_picture, render_view
from ldm_train.data.pictures.headers import MAX_PIXELS
from ldm_train.data.pictures.map_values import MapSpec
from ldm_train.data.pictures.maps import render_map
from ldm_train.data.pictures.pixel_values import PixelFormat

RGB = 3


def render_views(
    content: bytes,
    choose: Callable[[Size], Sequence[View]],
    *,
    pixels: PixelFormat | None = None,
    background: str = "white",
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Return the views of a picture: (V, 3, H, W) uint8, or (V, C, H, W) float32 in [-1, 1] of values as they are stored.

    Args:
        choose: returns the views of a picture of a (height, width).
        background: what shows through or around the picture, a colour's name.

    Raises:
        DECODE_ERRORS: it cannot be decoded, or has other channels or more bits than the format.
    """
    if pixels is None:
        picture = decode_picture(content, background=background, max_pixels=max_pixels)
        views = choose((picture.height, picture.width))
        return torch.stack([torch.from_numpy(render_view(picture, view, background=background)) for view in views]).permute(
            0, 3, 1, 2
        )
    values = pixels.read(content, background=background, max_pixels=max_pixels)
    tensor = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
    outside = torch.from_numpy(pixels.background(background)).view(-1, 1, 1)
    spec = MapSpec("picture", channels=pixels.channels, encoded=True)
    return torch.stack([render_map(tensor, view, spec, outside=outside) for view in choose(values.shape[:2])])


def empty_views(count: int, views: Sequence[View], pixels: PixelFormat | None) -> Tensor:
    """Return zeros for the views of so many pictures, (count, V, C, H, W), of the type that `render_views` returns."""
    channels, kind = (RGB, torch.uint8) if pixels is None else (pixels.channels, torch.float32)
    return torch.zeros(count, len(views), channels, views[0].height, views[0].width, dtype=kind)
