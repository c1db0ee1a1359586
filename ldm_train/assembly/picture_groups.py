"""Group pictures by the settings of their prompts, and draw those of a group together."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.assembly.drawing import StartPicture, apply_prompt, build_run_recipe, naming_prompt, read_start, set_size
from ldm_train.assembly.given_conditions import read_given
from ldm_train.assembly.pixel_formats import refuse_rgb_command
from ldm_train.assembly.prompt_options import Prompt
from ldm_train.assembly.stored_run import TrainedRun, fill_from_run, open_run
from ldm_train.assembly.upscaling import Upscaler, open_upscaler
from ldm_train.assembly.word_attention import WordAttention, WordRecorder
from ldm_train.diffusion.denoiser import Estimate
from ldm_train.generation import SamplingSettings
from ldm_train.samplers.base import StepCallback
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.types import Given

EVERY = slice(None)


@dataclass(frozen=True)
class PictureGroup:
    """Pictures with the same settings.

    Args:
        places, numbers: where each stands among all pictures, and its noise number.
        upscaler: what enlarges them; None if they stay as they are drawn.
    """

    settings: SampleSettings
    trained: TrainedRun
    recipe: SamplingSettings
    start: StartPicture
    given: dict[str, Given]
    places: list[int]
    prompts: list[str]
    numbers: list[int]
    upscaler: Upscaler | None = None


def group_pictures(
    settings: SampleSettings,
    prompts: list[Prompt],
    trained: TrainedRun,
    *,
    open_it: Callable[[SampleSettings], TrainedRun] = open_run,
) -> list[PictureGroup]:
    """Return the pictures of all prompts in groups with the same settings, after trying each group.

    Args:
        open_it: opens the run that enlarges them.

    Raises:
        ValueError: a group cannot be drawn so.
    """
    if settings.upscaler is not None:
        refuse_rgb_command(trained.config, f"upscaler={settings.upscaler}")
    settings, upscaler = fill_from_run(settings, trained.config), open_upscaler(settings, open_it)
    groups: dict[tuple[tuple[str, str | int | float], ...], PictureGroup] = {}
    for index, prompt in enumerate(prompts):
        key = tuple(prompt.options.items())
        if key not in groups:
            own = apply_prompt(settings, prompt, trained.config)
            with naming_prompt(prompt):
                sized, recipe = set_size(trained, own), build_run_recipe(own)
                sized.generation.check([], recipe)
                if upscaler is not None:
                    upscaler.check([prompt.text])
                start, given = read_start(own, sized.generation), read_given(own, sized.generation)
            groups[key] = PictureGroup(own, sized, recipe, start, given, [], [], [], upscaler)
            if own.attention:
                build_recorder(groups[key], [prompt.text])  # raises before anything is drawn
        places = range(index * settings.count, (index + 1) * settings.count)
        groups[key].places.extend(places)
        numbers = places if prompt.seed is None else range(settings.count)
        groups[key].numbers.extend(settings.first_number + number for number in numbers)
        groups[key].prompts.extend([prompt.text] * settings.count)
    return list(groups.values())


def draw_batch(
    alike: PictureGroup, part: slice = EVERY, *, callback: StepCallback | None = None
) -> tuple[Tensor, Sequence[WordAttention | None]]:
    """Draw a part of pictures with the same settings: images (B, C, H, W) in [-1, 1], and the attention to their words.

    Without attention=true it is None for each picture.

    Args:
        callback: called after each step of the sampler.
    """
    generation, prompts, numbers = alike.trained.generation, alike.prompts[part], alike.numbers[part]
    recorder = build_recorder(alike, prompts) if alike.settings.attention else None

    def end_step(number: int, x_s: Tensor, estimate: Estimate) -> None:
        for one in (recorder, callback):
            if one is not None:
                one(number, x_s, estimate)

    with nullcontext() if recorder is None else recorder:
        images = generation(
            prompts,
            alike.recipe,
            numbers=torch.tensor(numbers),
            picture=alike.start.initial,
            callback=end_step,
            given=alike.given,
        )
    images = generation.require_finite(alike.start.paste(images), prompts, numbers, seed=alike.recipe.seed)
    if alike.upscaler is not None:
        images = alike.upscaler(images, prompts, numbers)
    return images.float().cpu(), [None] * len(prompts) if recorder is None else recorder.attention


def build_recorder(alike: PictureGroup, prompts: Sequence[str]) -> WordRecorder:
    """Return what records the attention to the words of prompts.

    Raises:
        ValueError: the run does not attend to words, or draws in tiles.
    """
    if alike.trained.generation.tile_side is not None:
        raise ValueError("attention=true is of pictures that are drawn at once, and these are drawn in tiles; leave it out")
    return WordRecorder(alike.trained.parts.network, alike.trained.parts.text_encoder, prompts, setting="attention=true")
