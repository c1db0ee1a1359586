"""Maps of pictures as tensors, cut as the views of their pictures are."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from ldm_train.data.pictures.crops import View
from ldm_train.data.pictures.decoding import scale_box
from ldm_train.data.pictures.headers import MAX_PIXELS
from ldm_train.data.pictures.map_values import MapError, MapSpec, read_map

__all__ = ["MapError", "MapSpec", "choose_masks", "decode_map", "key_of", "render_map"]

OUTSIDE = -1.0  # the value around a map, where crop=fit puts a background around its picture


def key_of(name: str) -> str:
    """Return the key of a map's values among the tensors of a row."""
    return f"map.{name}"


def choose_masks(values: Tensor, masks: Tensor | None, *, channels: int) -> Tensor:
    """Return the mask of each example with this number (B,), of all of them (B, masks * channels, h, w); None for all."""
    if masks is None:
        return values
    return values.unflatten(1, (-1, channels))[torch.arange(len(values)), masks]


def decode_map(content: bytes, spec: MapSpec, *, background: str = "white", max_pixels: int = MAX_PIXELS) -> Tensor:
    """Return an upright map as `read_map` reads it, (C, H, W) float32 in [-1, 1]; raises the same."""
    values = read_map(content, spec, background=background, max_pixels=max_pixels)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def render_map(values: Tensor, view: View, spec: MapSpec, *, factor: int = 1, outside: float | Tensor = OUTSIDE) -> Tensor:
    """Return what a view of the picture shows, of a map (C, H, W): (C, height / factor, width / factor).

    An encoded map is resized as pictures are. Others are resized linearly with antialiasing, or not blended at all. A
    normalized one is resized by cubic interpolation without antialiasing, and then stretched to [-1, 1], as Stable Diffusion
    2's network for depth has it. An encoded map, and one for a ControlNet, have the view's size.

    Args:
        factor: pixels of the view for each position of the latents.
        outside: the values around a map that is smaller than the view, or (C, 1, 1).
    """
    step = spec.pixels_each(factor)
    if view.top < 0 or view.left < 0:
        whole = replace(view, top=0, left=0, height=view.resized_height, width=view.resized_width, mirrored=False)
        canvas = values.new_zeros(len(values), view.height, view.width) + outside
        rows, columns = (
            slice(-start, -start + side) for start, side in ((view.top, whole.height), (view.left, whole.width))
        )
        canvas[:, rows, columns] = render_map(values, whole, spec)
        filled = View(view.height, view.width, 0, 0, view.height, view.width, view.mirrored)
        return render_map(canvas, filled, spec, factor=factor)
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    scaled = scale_box(box, (view.resized_width, view.resized_height), (values.shape[2], values.shape[1]))
    size = (view.width // step, view.height // step)
    if spec.nearest:
        cut = _take_nearest(values, scaled, size)
    elif spec.normalized:
        cut = _stretch(_interpolate_cubic(values, scaled, size))
    else:
        cut = _resize(values, scaled, size, Image.Resampling.BICUBIC if spec.is_picture else Image.Resampling.BILINEAR)
    return cut.flip(-1) if view.mirrored else cut


def _take_nearest(values: Tensor, box: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """Return the values at the centres of (width, height) equal parts of a box."""
    left, top, right, bottom = box
    places = [
        (start + (torch.arange(count, dtype=torch.float64) + 0.5) * (end - start) / count).long().clamp(max=side - 1)
        for start, end, count, side in ((left, right, size[0], values.shape[2]), (top, bottom, size[1], values.shape[1]))
    ]
    return values[:, places[1]][:, :, places[0]]


def _interpolate_cubic(values: Tensor, box: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """Return a box of values sampled at the centres of (width, height) equal parts, by cubic interpolation."""
    left, top, right, bottom = box
    columns, rows = (
        (start + (torch.arange(count) + 0.5) * (end - start) / count) * 2 / side - 1
        for start, end, count, side in ((left, right, size[0], values.shape[2]), (top, bottom, size[1], values.shape[1]))
    )
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    return grid_sample(values[None], places[None], mode="bicubic", padding_mode="border", align_corners=False)[0]


def _stretch(values: Tensor) -> Tensor:
    """Return values of which the least is -1 and the largest 1; zeros if all are the same."""
    low, high = values.amin(), values.amax()
    return torch.zeros_like(values) if low == high else 2 * (values - low) / (high - low) - 1


def _resize(values: Tensor, box: tuple[float, float, float, float], size: tuple[int, int], how: Image.Resampling) -> Tensor:
    """Return a box of values resized to (width, height) with antialiasing, in [-1, 1] also where cubic curves overshoot."""
    channels = [Image.fromarray(channel.numpy()).resize(size, how, box) for channel in values]
    return torch.from_numpy(np.stack([np.asarray(channel) for channel in channels])).clamp(-1, 1)
