"""Random masks of what is to be drawn anew, for training inpainting: brush strokes, boxes, halves, everything."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageDraw

from ldm_train import draws
from ldm_train.data.pictures.crops import Size

BRUSH, BOX, HALF = 0.45, 0.8, 0.95  # limits of the shares of the kinds; what is above masks everything
NUMBERS = 64  # that one mask takes at most


def draw_mask(key: str, number: int, size: Size) -> np.ndarray:
    """Return the mask of this number of a picture, (H, W) bool, True where to draw anew.

    Args:
        key: of the picture; the same key and number give the same mask.
        size: (height, width).
    """
    numbers = iter(draws.uniform(0, f"mask {key}", torch.tensor([number]), (NUMBERS,))[0].tolist())
    kind = next(numbers)
    if kind >= HALF:
        return np.ones(size, dtype=bool)
    canvas = Image.new("1", (size[1], size[0]))
    pen = ImageDraw.Draw(canvas)
    if kind < BRUSH:
        _draw_strokes(pen, size, numbers)
    elif kind < BOX:
        height, width = (side * (0.2 + 0.5 * next(numbers)) for side in size)
        top, left = next(numbers) * (size[0] - height), next(numbers) * (size[1] - width)
        right, bottom = max(round(left), round(left + width) - 1), max(round(top), round(top + height) - 1)
        pen.rectangle((round(left), round(top), right, bottom), fill=1)
    else:
        height, width = size
        side = int(4 * next(numbers))
        left, top = (width // 2 if side == 1 else 0), (height // 2 if side == 3 else 0)
        right, bottom = (-(-width // 2) if side == 0 else width), (-(-height // 2) if side == 2 else height)
        pen.rectangle((left, top, right - 1, bottom - 1), fill=1)
    return np.array(canvas)


def _draw_strokes(pen: ImageDraw.ImageDraw, size: Size, numbers: Iterator[float]) -> None:
    """Draw one to three strokes of a round brush, each of two to five straight parts."""
    side = min(size)
    for _ in range(1 + int(3 * next(numbers))):
        brush = side * (0.1 + 0.15 * next(numbers))
        x, y = (side * (0.15 + 0.7 * next(numbers)) for side in reversed(size))
        angle = 2 * math.pi * next(numbers)
        for _ in range(2 + int(4 * next(numbers))):
            angle += math.pi * (next(numbers) - 0.5)
            length = side * (0.15 + 0.25 * next(numbers))
            end = (x + length * math.cos(angle), y + length * math.sin(angle))
            pen.line((x, y, *end), fill=1, width=max(1, round(brush)))
            for centre in ((x, y), end):
                pen.ellipse([c + sign * brush / 2 for sign in (-1, 1) for c in centre], fill=1)
            x, y = (min(max(place, 0.1 * side), 0.9 * side) for place, side in zip(end, reversed(size), strict=True))
