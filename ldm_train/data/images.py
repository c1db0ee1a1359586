"""Picture files to tensors: decode, turn upright, put on white, resize with antialiasing, crop the centre."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: Path, size: int) -> Tensor:
    """The picture as (3, size, size), uint8: shorter side resized to `size` (area-weighted bicubic), centre cropped.

    Raises:
        OSError, SyntaxError, ValueError, DecompressionBombError: the file cannot be decoded (`DECODE_ERRORS`).
    """
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
        if upright.mode.startswith("I"):  # 16 bits of grey, which convert() would clip
            upright = Image.fromarray((np.asarray(upright) / 257).clip(0, 255).round().astype(np.uint8))
        colour = upright.convert("RGB")
        if colour.size != (size, size):
            colour = ImageOps.fit(colour, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(colour)).permute(2, 0, 1)


def to_signed(images: Tensor) -> Tensor:
    """uint8 (…, 3, H, W) to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8, clipped and rounded."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def save_png(images: Tensor, path: Path) -> None:
    """One uint8 picture (3, H, W) as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images.permute(1, 2, 0).cpu().numpy()).save(path)
