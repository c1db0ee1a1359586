"""Draw prompts into numbered files and one grid; prompts with the same settings are drawn together."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor

from ldm_train.assembly.drawing import (
    StartPicture,
    apply_prompt,
    build_run_recipe,
    naming_prompt,
    open_warned,
    read_start,
    set_size,
)
from ldm_train.assembly.given_conditions import read_given
from ldm_train.assembly.picture_folder import PictureFolder
from ldm_train.assembly.prompt_options import Prompt
from ldm_train.assembly.stored_run import TrainedRun, fill_from_run
from ldm_train.assembly.word_attention import WordAttention, WordRecorder
from ldm_train.commands.sample.attention_picture import draw_attention
from ldm_train.commands.sample.png_text import build_overview_texts, build_png_texts
from ldm_train.data.pictures.images import to_bytes
from ldm_train.data.pictures.labelled_grid import draw_captioned_grid
from ldm_train.generation import SamplingSettings
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.training.callbacks.picture_grids import make_grid_picture, stack_on_white
from ldm_train.types import Given


@dataclass(frozen=True)
class AlikePictures:
    """Pictures with the same settings.

    Args:
        places, numbers: where each stands among all pictures, and its noise number.
    """

    settings: SampleSettings
    trained: TrainedRun
    recipe: SamplingSettings
    start: StartPicture
    given: dict[str, Given]
    places: list[int]
    prompts: list[str]
    numbers: list[int]


def draw_grid(settings: SampleSettings, prompts: list[Prompt], folder: PictureFolder) -> list[str]:
    """Draw `count` pictures of each prompt, and all of them in one grid; return the prompt of each.

    Picture i has noise number i; pictures of a prompt with its own seed are numbered from 0, so that it gives the same
    pictures in any file.
    """
    count = len(prompts) * settings.count
    maps = [f"{number:04d}-attention.png" for number in range(count)] if settings.attention else []
    folder.expect([*(f"{number:04d}.png" for number in range(count)), *maps, "grid.png"])
    trained = open_warned(settings)
    pictures: dict[int, Tensor] = {}
    batches = [
        (alike, i)
        for alike in group_alike(settings, prompts, trained)
        for i in range(0, len(alike.places), settings.batch_size)
    ]
    for alike, first in track(batches, "drawing"):
        part = slice(first, first + settings.batch_size)
        drawn, attention = draw_batch(alike, part)
        for place, number, prompt, picture, words in zip(
            alike.places[part], alike.numbers[part], alike.prompts[part], drawn, attention, strict=True
        ):
            texts = build_png_texts(alike.settings, alike.trained, prompt, number)
            folder.save(picture, f"{place:04d}.png", texts)
            if words is not None:
                folder.save(draw_attention(words, picture), f"{place:04d}-attention.png", texts)
            pictures[place] = picture
    together = stack_on_white([pictures[place] for place in range(count)])
    names = [str(prompt) for prompt in prompts for _ in range(settings.count)]
    columns = settings.count if 1 < settings.count <= 8 else min(8, count)
    if settings.labels:
        overview = draw_captioned_grid(together, names, columns=columns)
    else:
        overview = make_grid_picture(together, columns=columns)
    folder.save(overview, "grid.png", build_overview_texts(fill_from_run(settings, trained.config), names))
    print(f"wrote {count} pictures of step {trained.step} to {folder.path}; see {folder.path / 'grid.png'}")
    return names


def group_alike(settings: SampleSettings, prompts: list[Prompt], trained: TrainedRun) -> list[AlikePictures]:
    """Return the pictures of all prompts in groups with the same settings, after trying each group.

    Raises:
        ValueError: a group cannot be drawn so.
    """
    settings = fill_from_run(settings, trained.config)
    groups: dict[tuple[tuple[str, str | int | float], ...], AlikePictures] = {}
    for index, prompt in enumerate(prompts):
        key = tuple(prompt.options.items())
        if key not in groups:
            own = apply_prompt(settings, prompt, trained.config)
            with naming_prompt(prompt):
                sized, recipe = set_size(trained, own.size), build_run_recipe(own)
                sized.generation.check([], recipe)
                start, given = read_start(own, sized.generation), read_given(own, sized.generation)
            groups[key] = AlikePictures(own, sized, recipe, start, given, [], [], [])
            if own.attention:
                build_recorder(groups[key], [prompt.text])  # raises before anything is drawn
        places = range(index * settings.count, (index + 1) * settings.count)
        groups[key].places.extend(places)
        groups[key].numbers.extend(places if prompt.seed is None else range(settings.count))
        groups[key].prompts.extend([prompt.text] * settings.count)
    return list(groups.values())


def draw_batch(alike: AlikePictures, part: slice) -> tuple[Tensor, Sequence[WordAttention | None]]:
    """Return uint8 images (B, 3, H, W) of a part of pictures with the same settings, and the attention to their words.

    Without attention=true it is None for each picture.
    """
    generation, prompts, numbers = alike.trained.generation, alike.prompts[part], alike.numbers[part]
    recorder = build_recorder(alike, prompts) if alike.settings.attention else None
    with nullcontext() if recorder is None else recorder:
        images = generation(
            prompts,
            alike.recipe,
            numbers=torch.tensor(numbers),
            picture=alike.start.initial,
            callback=recorder,
            given=alike.given,
        )
    images = generation.require_finite(alike.start.paste(images), prompts, numbers, seed=alike.recipe.seed)
    return to_bytes(images).cpu(), [None] * len(prompts) if recorder is None else recorder.attention


def build_recorder(alike: AlikePictures, prompts: Sequence[str]) -> WordRecorder:
    """Return what records the attention to the words of prompts.

    Raises:
        ValueError: the run does not attend to words.
    """
    return WordRecorder(alike.trained.parts.network, alike.trained.parts.text_encoder, prompts, setting="attention=true")
