"""Read what drawing starts from: a trained run at the requested size, and a picture with its mask."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ldm_train.assembly.cut_texts import warn_of_cut_prompts
from ldm_train.assembly.enlarging import enlarge_size, find_low_resolution, measure_small, read_small
from ldm_train.assembly.mask import KeptPixels, read_mask, reduce_mask, soften_edge
from ldm_train.assembly.prompt_options import Prompt
from ldm_train.assembly.prompts import list_texts, parse_prompts
from ldm_train.assembly.stored_run import TrainedRun, build_recipe, open_run
from ldm_train.conditioners.low_resolution import LowResolution
from ldm_train.data.pictures.decoding import read_upright_size
from ldm_train.data.pictures.images import DECODE_ERRORS, read_image, to_signed
from ldm_train.data.pictures.mask_files import has_transparency
from ldm_train.data.pictures.reduced import resize_bicubic
from ldm_train.generation import Generation, SamplingSettings
from ldm_train.samplers.base import InitialPicture
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.util.inputs import MAX_PICTURE, describe_error, read_input
from ldm_train.util.messages import note, warn

RGB = 3  # channels


def open_sized(config: SampleSettings) -> TrainedRun:
    """Open the run that a command names, set to the size that it asks for; print a warning if prompts are cut."""
    return set_size(open_warned(config), config)


def open_warned(config: SampleSettings) -> TrainedRun:
    """Open the run that a command names; print a warning if prompts are cut."""
    trained = open_run(config)
    negative = [config.negative_prompt] if config.negative_prompt else []
    for name, prompts in (("prompts", list_texts(parse_prompts(config.prompts))), ("negative_prompt", negative)):
        for line in warn_of_cut_prompts(trained.parts.text_encoder, prompts, setting=name):
            warn(line)
    return trained


def set_size(trained: TrainedRun, config: SampleSettings) -> TrainedRun:
    """Return a run that draws pictures of the size that a command asks for, or that a picture to enlarge has, in its tiles.

    Raises:
        ValueError: as `resize_generation` and `set_tile`, or the picture cannot be read.
    """
    generation, size = trained.generation, config.size
    condition = find_low_resolution(generation.conditions)
    if size is None and config.picture is not None and condition is not None:
        size = enlarge_size(measure_small(config.picture), generation, condition)
    tile = config.tile if config.upscaler is None else None  # else it is the upscaler's
    return replace(trained, generation=set_tile(resize_generation(generation, size), tile, trained.config))


def set_tile(generation: Generation, tile: int | None, trained: TrainSettings) -> Generation:
    """Return a generation that draws in tiles of this side, pixels; None: the whole at once, or a run's size if it enlarges.

    Raises:
        ValueError: the autoencoder and the network cannot divide it.
    """
    if tile is not None and tile % generation.unit:
        raise ValueError(f"tile={tile} must be a multiple of {generation.unit} pixels for this run")
    if tile is None and find_low_resolution(generation.conditions) is not None:
        tile = trained.image_size
    return replace(generation, tile=tile)


def apply_prompt(settings: SampleSettings, prompt: Prompt, trained: TrainSettings) -> SampleSettings:
    """Return settings, complete with what they leave to the run, with those that a prompt has itself."""
    options = {name: value for name in ("seed", "steps") if (value := getattr(prompt, name)) is not None}
    if prompt.negative is not None:
        options["negative_prompt"] = prompt.negative
    if prompt.guidance is not None:
        assert settings.guidance is not None
        options["guidance"] = settings.guidance.with_values(scale=prompt.guidance)
    if prompt.height is not None or prompt.width is not None:
        assert trained.image_size is not None
        height, width = settings.size or [trained.image_size] * 2
        options["size"] = [prompt.height or height, prompt.width or width]
    return settings.with_values(**options)


def build_run_recipe(settings: SampleSettings) -> SamplingSettings:
    """Return how to draw by settings that are complete."""
    assert settings.steps is not None
    return build_recipe(settings, steps=settings.steps, seed=settings.seed, negative_prompt=settings.negative_prompt)


@contextmanager
def naming_prompt(prompt: Prompt) -> Iterator[None]:
    """Raise errors of what a prompt asks for itself with the place where it is written."""
    try:
        yield
    except ValueError as error:
        if not prompt.options:
            raise
        raise ValueError(f"{prompt.where}: {error}") from error


def resize_generation(generation: Generation, size: Sequence[int] | None) -> Generation:
    """Return a generation that draws pictures of another (height, width) than the run's squares.

    Raises:
        ValueError: not two numbers, or none that the autoencoder and the network can divide.
    """
    if size is None:
        return generation
    unit = generation.unit
    if len(size) != 2 or any(side < 1 or side % unit for side in size):
        raise ValueError(f"size={list(size)} must be a height and a width, multiples of {unit} pixels for this run")
    return replace(generation, size=(size[0], size[1]))


@dataclass(frozen=True)
class StartPicture:
    """What drawing starts from: latents with their mask, None for noise; and the pixels that are kept, None for none.

    Args:
        shown: (height, width) of the part of what is drawn, from the top left, that is the picture; None for all.
    """

    initial: InitialPicture | None = None
    kept: KeptPixels | None = None
    shown: tuple[int, int] | None = None

    def paste(self, images: torch.Tensor) -> torch.Tensor:
        """Return drawn images (B, 3, H, W) with the pixels that are kept."""
        images = images if self.shown is None else images[:, :, : self.shown[0], : self.shown[1]]
        return images if self.kept is None else self.kept(images)


def read_start(config: SampleSettings, generation: Generation) -> StartPicture:
    """Return the picture to start from, and its mask, white where to draw.

    Raises:
        ValueError: a mask without a picture, a strength without one, or a file that cannot be read.
    """
    if config.picture is None:
        if config.mask is not None or config.strength != 1:
            raise ValueError(f"mask={config.mask} and strength={config.strength} need a picture=FILE to start from")
        return StartPicture()
    if (condition := find_low_resolution(generation.conditions)) is not None:
        return read_enlarged_start(config, generation, condition)
    edge, longest = config.mask_edge, max(generation.sides)
    if edge is not None and edge > longest:
        raise ValueError(f"mask_edge={edge} must be at most {longest}, the longer side of the picture in pixels")
    original = read_given_picture(config.picture, generation)
    latents = generation.encode(original)
    if not latents.isfinite().all():
        raise ValueError(f"the latents of picture={config.picture} contain NaN or infinity; look at the autoencoder")
    content = read_input(Path(config.picture), limit=MAX_PICTURE)
    if has_transparency(content):
        note(f"note: picture={config.picture} is transparent in places, which are taken as white")
    if config.mask is None:
        return StartPicture(InitialPicture(latents, config.strength))
    white = read_mask(config.mask, picture=read_upright_size(content), size=generation.sides)
    height, width = latents.shape[2:]
    mask = reduce_mask(white, (height, width), path=config.mask)
    edge = generation.autoencoder.factor if edge is None else edge
    kept = KeptPixels(original, soften_edge(white, edge)) if config.paste_original else None
    if any(one.takes_mask for one in generation.conditions.each):  # the network itself knows what is kept
        return StartPicture(InitialPicture(latents, config.strength) if config.strength < 1 else None, kept)
    return StartPicture(InitialPicture(latents, config.strength, mask.to(latents)), kept)


def read_enlarged_start(config: SampleSettings, generation: Generation, condition: LowResolution) -> StartPicture:
    """Return what enlarging starts from: noise, or with strength below 1 the picture enlarged by bicubic interpolation.

    Raises:
        ValueError: a mask, or a file that cannot be read.
    """
    assert config.picture is not None
    if config.mask is not None:
        raise ValueError(f"mask={config.mask}: this run enlarges a picture and draws all of it; leave mask out")
    small, shown = read_small(config.picture, generation, condition)
    if config.strength == 1:
        return StartPicture(shown=shown)
    latents = generation.encode(resize_bicubic(small, generation.sides))
    return StartPicture(InitialPicture(latents, config.strength), shown=shown)


def read_given_picture(path: str, generation: Generation) -> torch.Tensor:
    """Read a picture file at the size that is drawn, as `read_signed`.

    Raises:
        ValueError: it cannot be read, or the run draws pictures of another number of channels.
    """
    if (channels := getattr(generation.autoencoder, "image_channels", RGB)) != RGB:
        raise ValueError(
            f"picture={path} is read as RGB, and the number of channels of this run's pictures is {channels}; leave it out"
        )
    return read_signed(path, generation.size)


def read_signed(path: str, size: int | tuple[int, int]) -> torch.Tensor:
    """Read a picture file, cropped and scaled as encoding does it, (1, 3, H, W) in [-1, 1]."""
    try:
        return to_signed(read_image(Path(path), size)[None])
    except DECODE_ERRORS as error:
        raise ValueError(f"{path} cannot be read as a picture: {describe_error(error)}") from error
