"""Pictures as tensors: read, changed to the values a network sees and back, written."""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ldm_train.data.pictures.crops import centred
from ldm_train.data.pictures.decoding import DECODE_ERRORS, decode, decode_problem, render
from ldm_train.data.sources.items import PictureFile
from ldm_train.util.files import atomic_path
from ldm_train.util.inputs import MAX_PICTURE, open_input

__all__ = ["DECODE_ERRORS", "decode_problem", "read_image", "save_png", "to_bytes", "to_signed"]


def read_image(content_or_path: Path | bytes, size: int | tuple[int, int] | None) -> Tensor:
    """The picture as (3, H, W), uint8: on white, resized to cover a square's side or (height, width), centre cropped.

    Args:
        size: None leaves it as large as it is.

    Raises:
        DECODE_ERRORS: it cannot be read or decoded.
    """
    content = content_or_path if isinstance(content_or_path, bytes) else PictureFile(content_or_path).read()
    picture = decode(content)
    own = (picture.height, picture.width)
    view = centred(own, (size, size) if isinstance(size, int) else size or own)
    return torch.from_numpy(render(picture, view)).permute(2, 0, 1)


def to_signed(images: Tensor) -> Tensor:
    """uint8 (…, 3, H, W) to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8, clipped and rounded.

    Raises:
        ValueError: there is NaN or infinity among them, which would become black.
    """
    if not images.isfinite().all():
        raise ValueError("a picture contains NaN or infinity, and cannot be written")
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def nonfinite_numbers(images: Tensor) -> list[int]:
    """Return the places of those images (B, …) that contain NaN or infinity."""
    return (~images.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist()


def to_shown_bytes(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) as `to_bytes`, with a checkerboard instead of each that contains NaN or infinity."""
    broken = nonfinite_numbers(images)
    shown = to_bytes(images.nan_to_num(0, 0, 0))
    shown[broken] = checkerboard(images.shape[2], images.shape[3]).to(shown.device)
    return shown


def count_broken(shown: Tensor) -> int:
    """Return how many of uint8 pictures (B, 3, H, W) are the checkerboard of `to_shown_bytes`."""
    board = checkerboard(shown.shape[2], shown.shape[3]).to(shown.device)
    return int((shown == board).flatten(1).all(1).sum())


def checkerboard(height: int, width: int) -> Tensor:
    """Return a picture that nobody takes for one that was drawn, magenta and black, (3, H, W) uint8."""
    rows, columns = torch.arange(height)[:, None] * 4 // height, torch.arange(width) * 4 // width
    magenta = ((rows + columns) % 2 == 0).to(torch.uint8) * 255
    return torch.stack([magenta, torch.zeros_like(magenta), magenta])


def read_png_texts(path: Path) -> dict[str, str]:
    """Return the texts in a PNG file by their keywords; nothing if it is no such file."""
    try:
        with open_input(path, limit=MAX_PICTURE) as file, Image.open(file, formats=["PNG"]) as picture:
            return {str(keyword): text for keyword, text in picture.info.items() if isinstance(text, str)}
    except Exception:  # of Pillow's parsers; whether it is a picture is asked elsewhere
        return {}


def save_png(images: Tensor, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """One uint8 picture (3, H, W) as a PNG file that is whole or absent, with these texts in it by their keywords."""
    told = PngInfo()
    for keyword, text in (texts or {}).items():
        told.add_text(keyword, text)  # as iTXt where Latin-1 cannot hold it
    with atomic_path(path) as temporary:
        Image.fromarray(images.permute(1, 2, 0).cpu().numpy()).save(temporary, format="PNG", pnginfo=told)
