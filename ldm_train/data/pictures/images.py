"""Read pictures as tensors, convert between 8-bit and signed values, and write PNG files."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ldm_train.data.pictures.crops import Size, View, centre_view
from ldm_train.data.pictures.decoding import DECODE_ERRORS, describe_decode_error
from ldm_train.data.pictures.picture_views import render_views
from ldm_train.data.pictures.pixel_values import PixelFormat
from ldm_train.data.sources.items import PictureFile
from ldm_train.util.files import atomic_write
from ldm_train.util.inputs import MAX_PICTURE, open_input

__all__ = ["DECODE_ERRORS", "describe_decode_error", "encode_png", "read_image", "save_png", "to_bytes", "to_signed"]


def read_image(
    content_or_path: Path | bytes, size: int | tuple[int, int] | None, *, pixels: PixelFormat | None = None
) -> Tensor:
    """Return a picture as uint8 (3, H, W), on white if transparent, resized and centre cropped.

    Args:
        size: side of a square, or (height, width); None keeps the picture's size.
        pixels: the format of values that are read as they are stored; the result is then float32 (C, H, W) in [-1, 1].

    Raises:
        DECODE_ERRORS: it cannot be read or decoded.
    """
    content = content_or_path if isinstance(content_or_path, bytes) else PictureFile(content_or_path).read()

    def choose(own: Size) -> list[View]:
        return [centre_view(own, (size, size) if isinstance(size, int) else size or own)]

    return render_views(content, choose, pixels=pixels)[0]


def to_signed(images: Tensor) -> Tensor:
    """Return uint8 images (…, 3, H, W) as float32 in [-1, 1]; floats are there already."""
    return images if images.is_floating_point() else images.float() / 127.5 - 1


def as_rgb(images: Tensor) -> Tensor:
    """Return images (…, C, H, W) with three channels to be seen or measured: the first three, or the first one as grey."""
    channels = images.shape[-3]
    if channels == 3:
        return images
    return images[..., :3, :, :] if channels > 3 else images[..., [0, 0, 0], :, :]


def to_bytes(images: Tensor) -> Tensor:
    """Return images (…, C, H, W) in [-1, 1] as uint8 RGB, clipped and rounded; `as_rgb` says which of other channels.

    Raises:
        ValueError: they contain NaN or infinity, which would become black.
    """
    if not images.isfinite().all():
        raise ValueError("a picture contains NaN or infinity, and cannot be written")
    return ((as_rgb(images).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def find_nonfinite(images: Tensor) -> list[int]:
    """Return the indices of the images (B, …) that contain NaN or infinity."""
    return (~images.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist()


def to_display_bytes(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) as `to_bytes` does, with a checkerboard instead of each with NaN or infinity."""
    broken = find_nonfinite(images)
    displayed = to_bytes(images.nan_to_num(0, 0, 0))
    displayed[broken] = draw_checkerboard(images.shape[2], images.shape[3]).to(displayed.device)
    return displayed


def count_broken(displayed: Tensor) -> int:
    """Return how many of the uint8 images (B, 3, H, W) are the checkerboard of `to_display_bytes`."""
    board = draw_checkerboard(displayed.shape[2], displayed.shape[3]).to(displayed.device)
    return int((displayed == board).flatten(1).all(1).sum())


def draw_checkerboard(height: int, width: int) -> Tensor:
    """Return a magenta and black checkerboard, uint8 (3, H, W), which cannot be mistaken for a generated image."""
    rows, columns = torch.arange(height)[:, None] * 4 // height, torch.arange(width) * 4 // width
    magenta = ((rows + columns) % 2 == 0).to(torch.uint8) * 255
    return torch.stack([magenta, torch.zeros_like(magenta), magenta])


def read_png_texts(path: Path) -> dict[str, str]:
    """Return the texts in a PNG file by their keywords; none if it is not a PNG file."""
    try:
        with open_input(path, limit=MAX_PICTURE) as file, Image.open(file, formats=["PNG"]) as picture:
            return {str(keyword): text for keyword, text in picture.info.items() if isinstance(text, str)}
    except Exception:  # of Pillow's parsers; other functions report damaged pictures
        return {}


def save_png(images: Tensor, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Write a uint8 image (3, H, W) as a PNG file, atomically, with texts by their keywords."""
    atomic_write(path, encode_png(images, texts))


def encode_png(images: Tensor, texts: Mapping[str, str] | None = None) -> bytes:
    """Return a uint8 image (3, H, W) as a PNG file's bytes, with texts by their keywords."""
    info, encoded = PngInfo(), BytesIO()
    for keyword, text in (texts or {}).items():
        info.add_text(keyword, text)  # as iTXt if the text is not Latin-1
    Image.fromarray(images.permute(1, 2, 0).cpu().numpy()).save(encoded, format="PNG", pnginfo=info)
    return encoded.getvalue()
