"""Draw pictures in rows and columns with labels or captions, with Pillow and the fonts of this machine."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ldm_train.data.pictures.fonts import list_absent, load_font, split_by_font

LINE, GAP = 18, 6  # pixels
NARROWEST = 128  # pixels; narrower cells are enlarged by a whole factor, so that labels fit
LABEL_WIDTH = 200  # pixels at most, for the labels to the left of the rows
MAX_LINES = 6


def draw_labelled_grid(cells: Sequence[Sequence[Tensor]], columns: Sequence[str], rows: Sequence[str]) -> Tensor:
    """Return one image (3, H', W') of uint8 images (3, H, W) in rows, with labels above columns and to the left of rows."""
    warn_of_absent_letters([*columns, *rows])
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
            _write(pen, (middle, top - GAP - LINE * number), line, anchor="md")
    for row, lines in enumerate(row_labels):
        start = top + row * (height + GAP) + (height - LINE * len(lines)) // 2
        for number, line in enumerate(lines):
            _write(pen, (left - GAP, start + LINE * number), line, anchor="ra")
        for column, picture in enumerate(pictures[row]):
            canvas.paste(picture, (left + column * (width + GAP), top + row * (height + GAP)))
    return _tensor(canvas)


def draw_captioned_grid(images: Tensor, texts: Sequence[str], *, columns: int) -> Tensor:
    """Return one image (3, H', W') of uint8 images (B, 3, H, W) in rows of `columns`, with a text below each."""
    warn_of_absent_letters(texts)
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
            _write(pen, place, line, anchor="ma")
    return _tensor(canvas)


def draw_label_sheet(texts: Sequence[str], *, columns: int, side: int) -> Image.Image:
    """Return a square sheet of squares in rows of `columns`, with a text in the middle of each; what does not fit is cut.

    Args:
        side: of a square, pixels.
    """
    warn_of_absent_letters(texts)
    sheet = Image.new("RGB", (columns * side, columns * side), "white")
    for number, text in enumerate(texts):
        square = Image.new("RGB", (side, side), "white")
        lines = wrap_text(text, side - GAP)[: max(1, side // LINE)]
        for line_number, line in enumerate(lines):
            top = (side - LINE * len(lines)) // 2 + LINE * line_number
            _write(ImageDraw.Draw(square), (side // 2, top), line, anchor="ma")
        sheet.paste(square, (number % columns * side, number // columns * side))
    return sheet


def wrap_text(text: str, width: int) -> list[str]:
    """Return a text as at most six lines of at most `width` pixels; a single word that does not fit is cut."""
    lines: list[str] = []
    for whole in text.split():
        word = whole[: (MAX_LINES + 1) * width]  # no letter is narrower than a pixel
        together = f"{lines[-1]} {word}" if lines else word
        if lines and _width(together) <= width:
            lines[-1] = together
            continue
        while _width(word) > width and len(word) > 1:
            cut = next((n for n in range(min(len(word) - 1, width), 1, -1) if _width(word[:n]) <= width), 1)
            lines, word = [*lines, word[:cut]], word[cut:]
        lines.append(word)
    return lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], f"{lines[MAX_LINES - 1]} …"]


def warn_of_absent_letters(texts: Sequence[str]) -> None:
    """Print which letters will be drawn as boxes, since no font on this machine has them."""
    if absent := list_absent(texts):
        print(
            f"note: no font on this machine has {' '.join(absent)}, which are drawn as boxes; install one, such as Noto Sans"
        )


def _width(text: str) -> int:
    return int(-(-sum(font.getlength(part) for part, font in split_by_font(text)) // 1))


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, *, anchor: str) -> None:
    """Write a text whose middle (m) or right end (r) is at a place; on one baseline, whatever fonts its letters need."""
    x, y = float(place[0] - _width(text) / (2 if anchor[0] == "m" else 1)), place[1]
    bottom = y + _ascent() if anchor[1] == "a" else y - LINE + _ascent()
    for part, font in split_by_font(text):
        pen.text((x, bottom), part, fill="black", font=font, anchor="ls")
        x += font.getlength(part)


def _ascent() -> int:
    """Return the pixels from the top of a line to its baseline."""
    _, top, _, bottom = load_font().getbbox("Ag", anchor="ls")
    return round(LINE / 2 - (top + bottom) / 2)


def _picture(cell: Tensor) -> Image.Image:
    """Return a cell (3, H, W) as a Pillow image; a small one is enlarged by a whole factor, without smoothing."""
    picture = Image.fromarray(cell.permute(1, 2, 0).cpu().numpy())
    factor = max(1, -(-NARROWEST // picture.width))
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
