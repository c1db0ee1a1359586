"""Draw interpolations between prompts and between seeds, side by side."""

from itertools import pairwise

import torch
from rich.progress import track
from torch import Tensor

from ldm_train.assembly.drawing import open_warned
from ldm_train.assembly.picture_folder import PictureFolder
from ldm_train.assembly.pixel_formats import read_pixel_format
from ldm_train.assembly.png_text import build_overview_texts
from ldm_train.assembly.prompt_options import Prompt
from ldm_train.assembly.strip_pictures import draw_between, prepare_strip
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.training.callbacks.picture_grids import make_grid_picture


def draw_strip(settings: SampleSettings, given: list[Prompt], folder: PictureFolder) -> list[str]:
    """Draw `interpolate` pictures from each prompt to the next, ends included; return their names.

    The number of their noise is `first_number`.

    Each pair of prompts is a row of `strip.png`. The noise goes from `seed` to `to_seed` in a row, and back in the next.

    Raises:
        ValueError: there is only one prompt and no second seed, or a prompt has settings of its own.
    """
    assert settings.interpolate is not None
    for prompt in given:
        for name, value in prompt.options.items():
            raise ValueError(
                f"{prompt.where}: {name} {value} does not go with interpolate={settings.interpolate}, since a strip has the "
                "same settings everywhere; give them as settings of the command"
            )
    prompts = [prompt.text for prompt in given]
    if len(prompts) == 1 and settings.to_seed is None:
        raise ValueError(
            f"interpolate={settings.interpolate} needs two prompts, or another seed for one prompt: set to_seed=1"
        )
    trained, shares = open_warned(settings), torch.linspace(0, 1, settings.interpolate)
    strip, pixels = prepare_strip(settings, trained, prompts), read_pixel_format(trained.config.pixels)
    ending = "png" if pixels is None else pixels.ending
    pairs = list(pairwise(prompts)) or [(prompts[0], prompts[0])]
    folder.expect([*(f"{place:04d}.{ending}" for place in range(len(pairs) * len(shares))), "strip.png"])
    seeds = [settings.seed, settings.seed if settings.to_seed is None else settings.to_seed]
    pictures: list[Tensor] = []
    drawn: list[str] = []
    places = [(row, part) for row in range(len(pairs)) for part in shares.split(settings.batch_size)]
    for row, part in track(places, "drawing"):
        ends = (seeds[row % 2], seeds[1 - row % 2])
        for picture in draw_between(strip, pairs[row], ends, part):
            folder.save_drawn(picture.values, f"{len(drawn):04d}.{ending}", picture.png_texts, pixels)
            pictures.append(picture.image)
            drawn.append(picture.name)
    together = torch.stack(pictures)
    overview = make_grid_picture(together, columns=len(shares))
    folder.save(overview, "strip.png", build_overview_texts(strip.settings, prompts))
    print(f"wrote {len(drawn)} pictures of step {strip.trained.step} to {folder.path}; see {folder.path / 'strip.png'}")
    return drawn
