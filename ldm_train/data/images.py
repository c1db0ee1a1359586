"""Pictures as tensors: read, changed to the values a network sees and back, written."""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ldm_train.data.crops import centred
from ldm_train.data.decoding import DECODE_ERRORS, decode, decode_problem, render
from ldm_train.data.items import PictureFile

__all__ = ["DECODE_ERRORS", "decode_problem", "read_image", "save_png", "to_bytes", "to_signed"]


def read_image(content_or_path: Path | bytes, size: int | tuple[int, int] | None) -> Tensor:
    """The picture as (3, H, W), uint8: on white, resized to cover a square's side or (height, width), centre cropped.

    Args:
        size: None leaves it as large as it is.

    Raises:
        OSError, SyntaxError, ValueError, MemoryError, DecompressionBombError: it cannot be decoded (`DECODE_ERRORS`).
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
    """Images in [-1, 1] to uint8, clipped and rounded."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def save_png(images: Tensor, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """One uint8 picture (3, H, W) as a PNG file that is whole or absent, with these texts in it by their keywords."""
    told = PngInfo()
    for keyword, text in (texts or {}).items():
        told.add_text(keyword, text)  # as iTXt where Latin-1 cannot hold it
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f"{path.name}.writing")
    Image.fromarray(images.permute(1, 2, 0).cpu().numpy()).save(writing, format="PNG", pnginfo=told)
    writing.replace(path)
