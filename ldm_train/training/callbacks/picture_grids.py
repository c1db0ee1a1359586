"""Pictures side by side, for people and dashboards, and pictures that all ranks draw together."""

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.utils import make_grid

from ldm_train.data.pictures.images import count_broken, to_display_bytes
from ldm_train.generation import Generation, Recipe
from ldm_train.samplers.base import StepCallback
from ldm_train.training.loggers.dashboards import log_scalars


def grid(images: Tensor, *, columns: int) -> Tensor:
    """uint8 images (B, 3, H, W) in rows of `columns`, one picture (3, H', W')."""
    return make_grid(images, nrow=columns, padding=2, pad_value=255).to(torch.uint8)


def pairs(above: Tensor, below: Tensor, *, columns: int) -> Tensor:
    """Each of uint8 images (B, 3, H, W) over its counterpart, in double rows of `columns`, one picture (3, H', W')."""
    rows = [row for i in range(0, len(above), columns) for row in (above[i : i + columns], below[i : i + columns])]
    empty = torch.full_like(above[:1], 255).expand(columns, -1, -1, -1)
    return grid(torch.cat([torch.cat([row, empty[len(row) :]]) for row in rows]), columns=columns)


def fitted(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A uint8 image (3, H, W) as large as it can be within (height, width), on white, (3, height, width)."""
    scale = min(side / own for side, own in zip(size, image.shape[1:], strict=True))
    inner = [max(1, round(own * scale)) for own in image.shape[1:]]
    if tuple(inner) != tuple(image.shape[1:]):
        resized = interpolate(image[None].float(), inner, mode="bilinear", antialias=True)[0]
        image = resized.round().clamp(0, 255).to(torch.uint8)
    left, top = (size[1] - inner[1]) // 2, (size[0] - inner[0]) // 2
    return pad(image, (left, size[1] - inner[1] - left, top, size[0] - inner[0] - top), value=255)


def warn_of_broken(trainer: pl.Trainer, name: str, pictures: Tensor) -> None:
    """Say and log how many of uint8 pictures (B, 3, H, W) stand for what was not finite, if there are some."""
    if count := count_broken(pictures):
        print(
            f"warning: at step {trainer.global_step} {count} of {len(pictures)} {name} contain NaN or infinity, and are "
            "shown as a checkerboard; the run goes on"
        )
        log_scalars(trainer, {f"nonfinite_pictures/{name.replace(' ', '_')}": float(count)})


def draw_together(
    generation: Generation,
    prompts: list[str],
    recipe: Recipe,
    *,
    rank: int,
    world: int,
    callback: StepCallback | None = None,
) -> Tensor:
    """A picture of each prompt, (B, 3, H, W) uint8 on the CPU of every rank, of which each has drawn a share.

    The i-th has noise number i, whoever draws it. A rank with nothing to do draws a picture again, for sharded parameters
    need every rank at every step.
    """
    portion = torch.arange(len(prompts)).tensor_split(world)[rank].tolist()
    drawn = portion or [0]
    own = to_display_bytes(generation([prompts[i] for i in drawn], recipe, first=drawn[0], callback=callback))
    if world == 1:
        return own.cpu()
    images = own.new_zeros(len(prompts), *own.shape[1:])
    images[portion] = own[: len(portion)]
    torch.distributed.all_reduce(images)
    return images.cpu()
