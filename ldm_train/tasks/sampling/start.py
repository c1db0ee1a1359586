"""What drawing starts from: the prompts, the trained run at the wished size, and a picture with its mask."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig

from ldm_train.data.images import DECODE_ERRORS, read_image, to_signed
from ldm_train.generation import Generation
from ldm_train.samplers.base import Picture
from ldm_train.tasks.parts.assemble import TrainedRun, open_run
from ldm_train.util.inputs import MAX_PROMPTS, READ_ERRORS, describe_error, read_text


def open_sized(config: DictConfig) -> TrainedRun:
    """The run that a command names, drawing pictures of the size that it asks for."""
    trained = open_run(config)
    return replace(trained, generation=resized(trained.generation, config.size))


def resized(generation: Generation, size: Sequence[int] | None) -> Generation:
    """For pictures of another (height, width) than the run's squares.

    Raises:
        ValueError: not two numbers, or none that the autoencoder and the network can divide.
    """
    if size is None:
        return generation
    unit = generation.autoencoder.factor * getattr(generation.network, "divisor", 1)
    if len(size) != 2 or any(side < 1 or side % unit for side in size):
        raise ValueError(f"size={list(size)} must be a height and a width, multiples of {unit} pixels for this run")
    return replace(generation, size=(size[0], size[1]))


def read_start(config: DictConfig, generation: Generation) -> Picture | None:
    """The picture to start from, encoded, and the mask (white where to draw) at the size of its latents.

    Raises:
        ValueError: a mask without a picture, a strength without one, or a file that cannot be read.
    """
    if config.picture is None:
        if config.mask is not None or config.strength != 1:
            raise ValueError(f"mask={config.mask} and strength={config.strength} need a picture=FILE to start from")
        return None
    latents = generation.encode(read_signed(config.picture, generation.size))
    if config.mask is None:
        return Picture(latents, config.strength)
    white = read_signed(config.mask, generation.size).mean(1, keepdim=True).to(generation.device)
    mask = torch.nn.functional.interpolate(white, size=latents.shape[2:], mode="area") > 0
    return Picture(latents, config.strength, mask.to(latents))


def read_signed(path: str, size: int | tuple[int, int]) -> torch.Tensor:
    """A picture file, cropped and scaled as encoding does, (1, 3, H, W) in [-1, 1]."""
    try:
        return to_signed(read_image(Path(path), size)[None])
    except (*DECODE_ERRORS, *READ_ERRORS) as error:
        raise ValueError(f"{path} cannot be read as a picture: {describe_error(error)}") from error


def read_prompts(prompts: object) -> list[str]:
    """Prompts from a list, or from a text file with one a line.

    Raises:
        ValueError: no such file, or no prompt.
    """
    if isinstance(prompts, str):
        path = Path(prompts)
        if not os.path.isfile(path):  # and not Path.is_file, which raises for a text that is too long to be a path
            raise ValueError(f"prompts={prompts} is not a text file; give one, or a list: 'prompts=[\"…\"]'")
        texts = [line.strip() for line in read_text(path, limit=MAX_PROMPTS).splitlines() if line.strip()]
    else:
        assert isinstance(prompts, ListConfig)
        texts = [str(prompt) for prompt in prompts]
    if not texts:
        raise ValueError(f"prompts={prompts} holds no prompt")
    return texts
