"""One picture of a whole run: a row of the same prompts for each of its steps, which grows as it goes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ldm_train.data.pictures.images import DECODE_ERRORS
from ldm_train.util.files import atomic_path
from ldm_train.util.safe_json import parse_json

ROWS, COLUMNS = 24, 12  # at most
SMALLEST, LARGEST = 64, 128  # a picture's longer side, pixels
GAP, MARGIN = 4, 64  # between pictures, and for the steps' numbers


def grow(path: Path, pictures: Tensor, *, step: int, every: int, settings: Mapping[str, object]) -> Tensor:
    """Write the picture with a row more, and give it, (3, H, W) uint8.

    When there are too many rows, every second one goes: those stay that are at a power of two times `every` steps.

    Args:
        pictures: of the prompts, (B, 3, H, W) uint8; the first `COLUMNS` are shown.
        settings: of what is drawn; the picture starts anew where its rows were drawn otherwise.
    """
    described = json.dumps(settings, sort_keys=True)
    rows = {at: row for at, row in read_rows(path, described).items() if at < step} | {step: _row(pictures, step)}
    rows = {at: rows[at] for at in shown(list(rows), every=every)}
    whole = Image.fromarray(np.concatenate([np.asarray(row) for row in rows.values()]))
    told = PngInfo()
    told.add_text("settings", described)
    told.add_text("steps", json.dumps(list(rows)))
    with atomic_path(path) as temporary:
        whole.save(temporary, "PNG", pnginfo=told)
    return torch.from_numpy(np.array(whole)).permute(2, 0, 1)


def read_rows(path: Path, settings: str) -> dict[int, Image.Image]:
    """The rows of a picture by their steps; none where there is no picture, or one of other settings."""
    try:
        with Image.open(path) as picture:
            whole, told = picture.convert("RGB"), dict(picture.info)
            steps = parse_json(str(told["steps"])) if told.get("settings") == settings else []
    except (*DECODE_ERRORS, KeyError):
        return {}
    if not isinstance(steps, list) or not all(isinstance(step, int) for step in steps):
        return {}
    height = whole.height // max(1, len(steps))
    return {int(str(step)): whole.crop((0, i * height, whole.width, (i + 1) * height)) for i, step in enumerate(steps)}


def shown(steps: Sequence[int], *, every: int) -> list[int]:
    """Which of these rising steps have a row: `ROWS` and the last one at most."""
    stride = 1
    while steps[-1] // (every * stride) > ROWS:
        stride *= 2
    return [step for step in steps[:-1] if step % (every * stride) == 0] + [steps[-1]]


def _row(pictures: Tensor, step: int) -> Image.Image:
    """The step's number, and the pictures beside it."""
    height, width = _size(pictures.shape[2], pictures.shape[3])
    row = Image.new("RGB", (MARGIN + min(COLUMNS, len(pictures)) * (width + GAP), height + GAP), "white")
    ImageDraw.Draw(row).text(
        (MARGIN - GAP, height // 2), f"{step}", fill="black", anchor="rm", font=ImageFont.load_default(14)
    )
    for i, picture in enumerate(pictures[:COLUMNS]):
        tile = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        whole_factor = width % tile.width == 0
        tile = tile.resize((width, height), Image.Resampling.NEAREST if whole_factor else Image.Resampling.LANCZOS)
        row.paste(tile, (MARGIN + i * (width + GAP), 0))
    return row


def _size(height: int, width: int) -> tuple[int, int]:
    """At which pictures of this size are shown: a small one a whole number of times as large."""
    longer = max(height, width)
    factor = -(-SMALLEST // longer) if longer < SMALLEST else min(1.0, LARGEST / longer)
    return round(height * factor), round(width * factor)
