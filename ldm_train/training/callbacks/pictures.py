"""Pictures side by side, for people and dashboards."""

import torch
from torch import Tensor
from torchvision.utils import make_grid


def grid(images: Tensor, *, columns: int) -> Tensor:
    """uint8 images (B, 3, H, W) in rows of `columns`, one picture (3, H', W')."""
    return make_grid(images, nrow=columns, padding=2, pad_value=255).to(torch.uint8)
