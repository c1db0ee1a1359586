"""Pictures in rows and columns with words beside them, drawn by Pillow; the font is the one that it brings."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FONT_SIZE, LINE, GAP = 14, 18, 6  # pixels
NARROWEST = 128  # pixels of a cell: smaller ones are enlarged by a whole factor, for words to fit beside them
LABEL_WIDTH = 200  # pixels at most, left of the rows
MAX_LINES = 6


def plot(cells: Sequence[Sequence[Tensor]], columns: Sequence[str], rows: Sequence[str]) -> Tensor:
    """uint8 pictures (3, H, W) in rows, with a label above each column and left of each row, one picture (3, H', W')."""
    pictures = [[_picture(cell) for cell in row] for row in cells]
    width, height = pictures[0][0].size
    above = [wrapped(text, width) for text in columns]
    beside = [wrapped(text, LABEL_WIDTH) for text in rows]
    top = GAP + LINE * max(len(lines) for lines in above) + GAP * any(above)
    left = GAP + max(_width(line) for lines in beside for line in [*lines, ""]) + GAP * any(beside)
    canvas = Image.new("RGB", (left + len(columns) * (width + GAP), top + len(rows) * (height + GAP)), "white")
    pen = ImageDraw.Draw(canvas)
    for column, lines in enumerate(above):
        middle = left + column * (width + GAP) + width // 2
        for number, line in enumerate(reversed(lines)):
            pen.text((middle, top - GAP - LINE * number), line, fill="black", font=font(), anchor="md")
    for row, lines in enumerate(beside):
        start = top + row * (height + GAP) + (height - LINE * len(lines)) // 2
        for number, line in enumerate(lines):
            pen.text((left - GAP, start + LINE * number), line, fill="black", font=font(), anchor="ra")
        for column, picture in enumerate(pictures[row]):
            canvas.paste(picture, (left + column * (width + GAP), top + row * (height + GAP)))
    return _tensor(canvas)


def captioned(images: Tensor, texts: Sequence[str], *, columns: int) -> Tensor:
    """uint8 images (B, 3, H, W) in rows of `columns`, each with its text below, one picture (3, H', W')."""
    pictures = [_picture(image) for image in images]
    width, height = pictures[0].size
    below = [wrapped(text, width) for text in texts]
    block = height + LINE * max(1, *map(len, below)) + GAP
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (GAP + columns * (width + GAP), GAP + rows * (block + GAP)), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (picture, lines) in enumerate(zip(pictures, below, strict=True)):
        left, top = GAP + number % columns * (width + GAP), GAP + number // columns * (block + GAP)
        canvas.paste(picture, (left, top))
        for line_number, line in enumerate(lines):
            place = (left + width // 2, top + height + GAP // 2 + LINE * line_number)
            pen.text(place, line, fill="black", font=font(), anchor="ma")
    return _tensor(canvas)


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines that fit into so many pixels, six at most; a word that alone does not fit is cut."""
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
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


def _width(text: str) -> int:
    return int(-(-font().getlength(text) // 1))


def _picture(cell: Tensor) -> Image.Image:
    """A cell, enlarged where it is small; its pixels stay squares."""
    picture = Image.fromarray(cell.permute(1, 2, 0).cpu().numpy())
    factor = max(1, -(-NARROWEST // picture.width))
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
