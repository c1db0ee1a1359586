"""Make small pictures of large ones, and enlarge them again without a network, by bicubic interpolation as Pillow has it."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm_train.data.pictures.images import to_signed


def reduce_views(images: Tensor, factor: int) -> Tensor:
    """Return (V, 3, H / factor, W / factor) in [-1, 1] of views (V, 3, H, W) uint8, scaled down with antialiasing."""
    height, width = images.shape[2:]
    assert height % factor == width % factor == 0, "what encodes refuses other shapes"
    return resize_bicubic(to_signed(images), (height // factor, width // factor))


def resize_bicubic(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images (B, C, H, W) in [-1, 1] scaled to (height, width), with antialiasing where that is smaller."""
    channels = [
        np.asarray(Image.fromarray(channel).resize(size[::-1], Image.Resampling.BICUBIC))
        for channel in images.flatten(0, 1).float().cpu().numpy()
    ]
    return torch.from_numpy(np.stack(channels)).unflatten(0, images.shape[:2]).clamp(-1, 1).to(images.device)
