"""Draw pictures in rows and columns with labels or captions, with Pillow and its built-in font."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FONT_SIZE, LINE, GAP = 14, 18, 6  # pixels
NARROWEST = 128  # pixels; narrower cells are enlarged by a whole factor, so that labels fit
LABEL_WIDTH = 200  # pixels at most, for the labels to the left of the rows
MAX_LINES = 6


def draw_labelled_grid(cells: Sequence[Sequence[Tensor]], columns: Sequence[str], rows: Sequence[str]) -> Tensor:
    """Return one image (3, H', W') of uint8 images (3, H, W) in rows, with labels above columns and to the left of rows."""
    pictures = [[_picture(cell) for cell in row] for row in cells]
    width, height = pictures[0][0].size
    above = [wrap_text(text, width) for text in columns]
    row_labels = [wrap_text(text, LABEL_WIDTH) for text in rows]
    top = GAP + LINE * max(len(lines) for lines in above) + GAP * any(above)
    left = GAP + max(_width(line) for lines in row_labels for line in [*lines, ""]) + GAP * any(row_labels)
    canvas = Image.new("RGB", (left + len(columns) * (width + GAP), top + len(rows) * (height + GAP)), "white")
    pen = ImageDraw.Draw(canvas)
    for column, lines in enumerate(above):
        middle = left + column * (width + GAP) + width // 2
        for number, line in enumerate(reversed(lines)):
            pen.text((middle, top - GAP - LINE * number), line, fill="black", font=load_font(), anchor="md")
    for row, lines in enumerate(row_labels):
        start = top + row * (height + GAP) + (height - LINE * len(lines)) // 2
        for number, line in enumerate(lines):
            pen.text((left - GAP, start + LINE * number), line, fill="black", font=load_font(), anchor="ra")
        for column, picture in enumerate(pictures[row]):
            canvas.paste(picture, (left + column * (width + GAP), top + row * (height + GAP)))
    return _tensor(canvas)


def draw_captioned_grid(images: Tensor, texts: Sequence[str], *, columns: int) -> Tensor:
    """Return one image (3, H', W') of uint8 images (B, 3, H, W) in rows of `columns`, with a text below each."""
    pictures = [_picture(image) for image in images]
    width, height = pictures[0].size
    below = [wrap_text(text, width) for text in texts]
    block = height + LINE * max(1, *map(len, below)) + GAP
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (GAP + columns * (width + GAP), GAP + rows * (block + GAP)), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (picture, lines) in enumerate(zip(pictures, below, strict=True)):
        left, top = GAP + number % columns * (width + GAP), GAP + number // columns * (block + GAP)
        canvas.paste(picture, (left, top))
        for line_number, line in enumerate(lines):
            place = (left + width // 2, top + height + GAP // 2 + LINE * line_number)
            pen.text(place, line, fill="black", font=load_font(), anchor="ma")
    return _tensor(canvas)


def wrap_text(text: str, width: int) -> list[str]:
    """Return a text as at most six lines of at most `width` pixels; a single word that does not fit is cut."""
    lines: list[str] = []
    for word in text.split():
        together = f"{lines[-1]} {word}" if lines else word
        if lines and _width(together) <= width:
            lines[-1] = together
            continue
        while _width(word) > width and len(word) > 1:
            cut = next((n for n in range(len(word) - 1, 1, -1) if _width(word[:n]) <= width), 1)
            lines, word = [*lines, word[:cut]], word[cut:]
        lines.append(word)
    return lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], f"{lines[MAX_LINES - 1]} …"]


@cache
def load_font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


def _width(text: str) -> int:
    return int(-(-load_font().getlength(text) // 1))


def _picture(cell: Tensor) -> Image.Image:
    """Return a cell (3, H, W) as a Pillow image; a small one is enlarged by a whole factor, without smoothing."""
    picture = Image.fromarray(cell.permute(1, 2, 0).cpu().numpy())
    factor = max(1, -(-NARROWEST // picture.width))
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
