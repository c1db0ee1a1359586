"""Read the small picture that a run with the condition `low_resolution` enlarges, and find the size of the large one."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from ldm_train import draws
from ldm_train.conditioners.condition import Conditions
from ldm_train.conditioners.low_resolution import LowResolution, check_level
from ldm_train.data.pictures.crops import Size
from ldm_train.data.pictures.decoding import read_upright_size
from ldm_train.data.pictures.images import DECODE_ERRORS, read_image, to_signed
from ldm_train.generation import Generation
from ldm_train.types import Given
from ldm_train.util.inputs import MAX_PICTURE, describe_error, read_input


def find_low_resolution(conditions: Conditions) -> LowResolution | None:
    """Return the condition on a small picture; None if a run does not enlarge pictures."""
    return next((one for one in conditions.each if isinstance(one, LowResolution)), None)


def measure_small(path: str) -> Size:
    """Return (height, width) of a picture file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return read_upright_size(read_input(Path(path), limit=MAX_PICTURE))
    except DECODE_ERRORS as error:
        raise ValueError(f"picture={path} cannot be read as a picture: {describe_error(error)}") from error


def enlarge_size(small: Size, generation: Generation, condition: LowResolution) -> list[int]:
    """Return (height, width) of the picture to draw: `factor` times the small one's, rounded up to the run's unit."""
    unit = generation.unit
    return [-(-side * condition.factor // unit) * unit for side in small]


def read_small(path: str, generation: Generation, condition: LowResolution) -> tuple[Tensor, Size]:
    """Return the small picture, (1, 3, h, w) in [-1, 1], and how much of what is drawn of it shows it, (height, width).

    If pictures of its size are drawn, it is repeated at the right and below up to what the network divides; else its centre
    is cropped and scaled.
    """
    own, (height, width) = measure_small(path), generation.sides
    size = (height // condition.factor, width // condition.factor)
    if enlarge_size(own, generation, condition) != [height, width]:
        return to_signed(read_image(Path(path), size)[None]), (height, width)
    images = to_signed(read_image(Path(path), own)[None])
    return pad_small(images, size), (own[0] * condition.factor, own[1] * condition.factor)


def pad_small(images: Tensor, size: Size) -> Tensor:
    """Return images (B, 3, h, w) continued at the right and below by their last column and row, to (height, width)."""
    height, width = images.shape[2:]
    return pad(images, (0, size[1] - width, 0, size[0] - height), mode="replicate")


def give_small(
    images: Tensor, condition: LowResolution, numbers: Sequence[int], *, noise_level: int | None, seed: int
) -> Given:
    """Return what a network gets of small images (B, 3, h, w), with noise.

    Args:
        numbers: of each picture's noise.
        noise_level: None for the condition's own.

    Raises:
        ValueError: a level that was not trained.
    """
    level = condition.noise_level if noise_level is None else noise_level
    check_level(level, condition.max_noise_level, "noise_level of this run")
    places = torch.tensor(numbers)
    noise = draws.normal(seed, f"condition {condition.name} noise", places, images.shape[1:])
    levels = torch.full((len(images),), level)
    return Given(condition.add_noise(images.cpu(), noise, levels), torch.ones(len(images), dtype=torch.bool))
