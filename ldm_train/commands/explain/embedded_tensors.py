"""Tensors as pictures of a page: images, latents, and maps of errors."""

import torch
from PIL import Image
from torch import Tensor

from ldm_train.reports.embedded_pictures import embed_picture
from ldm_train.reports.page_blocks import WholePicture
from ldm_train.util.colour_scale import colour_shares

LARGEST = (384, 384)  # pixels of a picture on the page
EXACT = 128  # pixels of the side up to which pictures are embedded without loss
RANGE = 3.0  # of latents, in standard deviations, from black to white
GAP = 1  # pixels between channels


def show_image(image: Tensor, label: str) -> WholePicture:
    """Return an image, uint8 (3, H, W), for a page; small ones keep each value."""
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    return WholePicture(embed_picture(picture, most=LARGEST, lossless=max(picture.size) <= EXACT), label, label)


def show_latents(latents: Tensor, label: str) -> WholePicture:
    """Return latents (C, h, w) for a page: each channel in grey, the channels next to each other."""
    return show_image(draw_latents(latents), label)


def draw_latents(latents: Tensor) -> Tensor:
    """Return latents (C, h, w) as an image, uint8 (3, H', W'), in rows of up to half as many channels as there are."""
    grey = ((latents.float().nan_to_num() / RANGE).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    count, height, width = grey.shape
    across = -(-count // 2) if count > 3 else count
    rows = -(-count // across)
    canvas = torch.full((rows * (height + GAP) - GAP, across * (width + GAP) - GAP), 255, dtype=torch.uint8)
    for number, channel in enumerate(grey):
        top, left = number // across * (height + GAP), number % across * (width + GAP)
        canvas[top : top + height, left : left + width] = channel
    return canvas.expand(3, -1, -1)


def show_map(values: Tensor, label: str, *, highest: float) -> WholePicture:
    """Return values (h, w) for a page, in colours from 0, dark, to `highest`, yellow."""
    return show_image(draw_map(values, highest=highest), label)


def draw_map(values: Tensor, *, highest: float) -> Tensor:
    """Return values (h, w) as an image, uint8 (3, h, w), in the colours of heatmaps."""
    shares = (values.float().nan_to_num(0, highest, 0) / (highest or 1)).clamp(0, 1)
    return torch.from_numpy(colour_shares(shares.numpy()))
