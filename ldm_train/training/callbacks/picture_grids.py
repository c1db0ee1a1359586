"""Grids of pictures for people and dashboards, and pictures that all ranks draw together."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ldm_train.data.pictures.images import to_display_bytes
from ldm_train.generation import NOTHING, Generation, SamplingSettings
from ldm_train.samplers.base import StepCallback
from ldm_train.types import Given

GAP = 2  # pixels around each picture of a grid
LABEL_MARGIN = 64  # pixels at the left of a picture, for its label


def make_grid_picture(images: Tensor, *, columns: int) -> Tensor:
    """Return uint8 images (B, 3, H, W) as one picture (3, H', W') with rows of `columns`."""
    height, width = (side + GAP for side in images.shape[2:])
    wide = min(columns, len(images))
    grid = images.new_full((images.shape[1], -(-len(images) // wide) * height + GAP, wide * width + GAP), 255)
    for number, image in enumerate(images):
        top, left = number // wide * height + GAP, number % wide * width + GAP
        grid[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return grid


def make_rows_picture(rows: Sequence[Tensor], *, columns: int) -> Tensor:
    """Return one picture (3, H', W') with the i-th of all rows' uint8 images (B, 3, H, W) below each other.

    Rows of more than `columns` images go on below.
    """
    parts = [row[i : i + columns] for i in range(0, len(rows[0]), columns) for row in rows]
    empty = torch.full_like(rows[0][:1], 255).expand(columns, -1, -1, -1)
    return make_grid_picture(torch.cat([torch.cat([part, empty[len(part) :]]) for part in parts]), columns=columns)


def stack_labelled(pictures: Mapping[str, Tensor]) -> Tensor:
    """Return pictures (3, H, W) uint8 below each other, (3, H', W'), each with its label at the left, on white."""
    width, rows = max(picture.shape[2] for picture in pictures.values()), []
    for label, picture in pictures.items():
        margin = Image.new("RGB", (LABEL_MARGIN, picture.shape[1]), "white")
        ImageDraw.Draw(margin).text(
            (LABEL_MARGIN - 4, margin.height // 2), label, fill="black", anchor="rm", font=ImageFont.load_default(14)
        )
        labelled = torch.cat([torch.from_numpy(np.array(margin)).permute(2, 0, 1), picture.cpu()], dim=2)
        rows.append(pad(labelled, (0, LABEL_MARGIN + width - labelled.shape[2]), value=255))
    return torch.cat(rows, dim=1)


def fit_on_white(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a uint8 image (3, H, W) scaled to fit into (height, width), on white, (3, height, width)."""
    scale = min(side / length for side, length in zip(size, image.shape[1:], strict=True))
    inner = [max(1, round(length * scale)) for length in image.shape[1:]]
    if tuple(inner) != tuple(image.shape[1:]):
        resized = interpolate(image[None].float(), inner, mode="bilinear", antialias=True)[0]
        image = resized.round().clamp(0, 255).to(torch.uint8)
    left, top = (size[1] - inner[1]) // 2, (size[0] - inner[0]) // 2
    return pad(image, (left, size[1] - inner[1] - left, top, size[0] - inner[0] - top), value=255)


def stack_on_white(images: Sequence[Tensor]) -> Tensor:
    """Return uint8 images (3, H, W) as (B, 3, H', W'), smaller ones at the top left on white."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    return torch.stack([pad(image, (0, width - image.shape[2], 0, height - image.shape[1]), value=255) for image in images])


def draw_in_passes(draw: Callable[[int, int], Tensor], count: int, *, at_once: int, most: int) -> Tensor:
    """Return what `draw(start, end)` returns for all of `count` pictures, (count, ...), in passes of at most `at_once`.

    Args:
        most: pictures of the rank that has most; this one makes as many passes, since sharded parameters need every rank.
    """
    starts = range(0, count, at_once)
    parts = [draw(start, min(start + at_once, count)) for start in starts]
    for _ in range(-(-most // at_once) - len(starts)):
        draw(0, min(at_once, count))
    return torch.cat(parts)


def draw_over_ranks(
    generation: Generation,
    prompts: list[str],
    recipe: SamplingSettings,
    *,
    rank: int,
    world: int,
    numbers: Sequence[int] | None = None,
    at_once: int | None = None,
    callback: StepCallback | None = None,
    given: Mapping[str, Given] = NOTHING,
) -> Tensor:
    """Draw a picture of each prompt, a share on each rank, and return all on every rank's CPU, (B, 3, H, W) uint8.

    The i-th picture has the i-th noise number, whichever rank draws it. A rank without a share draws the first picture
    again, because sharded parameters need every rank at every step.

    Args:
        numbers: noise numbers; None for 0, 1, 2, ….
        at_once: pictures of one pass; None for all of a rank.
        callback: of the first pass.
        given: what the pictures are conditioned on besides the prompts, a row for each.
    """
    portion = torch.arange(len(prompts)).tensor_split(world)[rank].tolist()
    drawn = portion or [0]
    every = torch.arange(len(prompts)) if numbers is None else torch.tensor(numbers)

    def draw(start: int, end: int) -> Tensor:
        rows, watch = torch.tensor(drawn[start:end]), callback if start == 0 else None
        texts, own = [prompts[row] for row in drawn[start:end]], {name: one[rows] for name, one in given.items()}
        return to_display_bytes(generation(texts, recipe, numbers=every[rows], callback=watch, given=own))

    most = -(-len(prompts) // world)  # of any rank
    images_here = draw_in_passes(draw, len(drawn), at_once=at_once or most, most=most)
    if world == 1:
        return images_here.cpu()
    images = images_here.new_zeros(len(prompts), *images_here.shape[1:])
    images[portion] = images_here[: len(portion)]
    torch.distributed.all_reduce(images)
    return images.cpu()
