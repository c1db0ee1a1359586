"""One picture of the whole run, with a row of the same prompts for each of its steps, extended as the run goes on."""

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

MAX_ROWS, MAX_COLUMNS = 24, 12
SMALLEST, LARGEST = 64, 128  # a picture's longer side, pixels
ROW_GAP, ROW_MARGIN = 4, 64  # pixels between pictures, and for the steps' numbers


def add_growth_row(path: Path, pictures: Tensor, *, step: int, every: int, settings: Mapping[str, object]) -> Tensor:
    """Add a row to the picture, write it, and return it, (3, H, W) uint8.

    If there are too many rows, every second one is dropped: rows at steps that are a power of two times `every` stay.

    Args:
        pictures: drawings of the prompts, (B, 3, H, W) uint8; the first `MAX_COLUMNS` are shown.
        settings: how the pictures were drawn; if the rows of an existing picture were drawn otherwise, it starts anew.
    """
    settings_text = json.dumps(settings, sort_keys=True)
    rows = {at: row for at, row in read_growth_rows(path, settings_text).items() if at < step} | {step: _row(pictures, step)}
    rows = {at: rows[at] for at in choose_growth_rows(list(rows), every=every)}
    picture = Image.fromarray(np.concatenate([np.asarray(row) for row in rows.values()]))
    metadata = PngInfo()
    metadata.add_text("settings", settings_text)
    metadata.add_text("steps", json.dumps(list(rows)))
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=metadata)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def read_growth_rows(path: Path, settings: str) -> dict[int, Image.Image]:
    """Return a picture's rows by their steps; none if there is no picture or it has other settings."""
    try:
        with Image.open(path) as picture:
            pixels, metadata = picture.convert("RGB"), dict(picture.info)
            steps = parse_json(str(metadata["steps"])) if metadata.get("settings") == settings else []
    except (*DECODE_ERRORS, KeyError):
        return {}
    if not isinstance(steps, list) or not all(isinstance(step, int) for step in steps):
        return {}
    height = pixels.height // max(1, len(steps))
    return {int(str(step)): pixels.crop((0, i * height, pixels.width, (i + 1) * height)) for i, step in enumerate(steps)}


def choose_growth_rows(steps: Sequence[int], *, every: int) -> list[int]:
    """Return which of these rising steps keep a row: at most `MAX_ROWS` and the last one."""
    stride = 1
    while steps[-1] // (every * stride) > MAX_ROWS:
        stride *= 2
    return [step for step in steps[:-1] if step % (every * stride) == 0] + [steps[-1]]


def _row(pictures: Tensor, step: int) -> Image.Image:
    """Return a row: the step's number and the pictures."""
    height, width = _size(pictures.shape[2], pictures.shape[3])
    row = Image.new("RGB", (ROW_MARGIN + min(MAX_COLUMNS, len(pictures)) * (width + ROW_GAP), height + ROW_GAP), "white")
    ImageDraw.Draw(row).text(
        (ROW_MARGIN - ROW_GAP, height // 2), f"{step}", fill="black", anchor="rm", font=ImageFont.load_default(14)
    )
    for i, picture in enumerate(pictures[:MAX_COLUMNS]):
        tile = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        whole_factor = width % tile.width == 0
        tile = tile.resize((width, height), Image.Resampling.NEAREST if whole_factor else Image.Resampling.LANCZOS)
        row.paste(tile, (ROW_MARGIN + i * (width + ROW_GAP), 0))
    return row


def _size(height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) at which pictures of this size are shown: small ones are enlarged by a whole factor."""
    longer = max(height, width)
    factor = -(-SMALLEST // longer) if longer < SMALLEST else min(1.0, LARGEST / longer)
    return round(height * factor), round(width * factor)
