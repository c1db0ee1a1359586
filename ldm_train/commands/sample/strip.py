"""Draw interpolations between prompts and between seeds, side by side."""

from itertools import pairwise

import torch
from rich.progress import track
from torch import Tensor

from ldm_train.assembly.drawing import open_sized, read_start
from ldm_train.assembly.given_conditions import read_given
from ldm_train.assembly.picture_folder import PictureFolder
from ldm_train.assembly.png_text import build_overview_texts, build_png_texts
from ldm_train.assembly.prompt_options import Prompt
from ldm_train.assembly.stored_run import fill_from_run
from ldm_train.data.pictures.images import to_bytes
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
    trained, shares = open_sized(settings), torch.linspace(0, 1, settings.interpolate)
    settings = fill_from_run(settings, trained.config)
    pairs = list(pairwise(prompts)) or [(prompts[0], prompts[0])]
    trained.generation.check(prompts, trained.recipe)
    start, conditions = read_start(settings, trained.generation), read_given(settings, trained.generation)
    folder.expect([*(f"{place:04d}.png" for place in range(len(pairs) * len(shares))), "strip.png"])
    seeds = [settings.seed, settings.seed if settings.to_seed is None else settings.to_seed]
    number, pictures = settings.first_number, list[Tensor]()
    drawn: list[str] = []
    places = [(row, part) for row in range(len(pairs)) for part in shares.split(settings.batch_size)]
    for row, part in track(places, "drawing"):
        ends = (seeds[row % 2], seeds[1 - row % 2])
        drawn_anew = trained.generation.interpolate(
            pairs[row],
            trained.recipe,
            part,
            seeds=ends,
            number=number,
            blend=settings.blend,
            picture=start.initial,
            given=conditions,
        )
        images = start.paste(drawn_anew)
        names = [f"{pairs[row][0]} - {share:.0%} - {pairs[row][1]}" for share in part.tolist()]
        trained.generation.require_finite(images, names, [number] * len(names), seed=ends[0])
        pictures.append(to_bytes(images).cpu())
        for share, picture, name in zip(part.tolist(), pictures[-1], names, strict=True):
            ends_of_row = {"from": pairs[row][0], "to": pairs[row][1]}
            metadata = ends_of_row | {"share": share, "seeds": list(ends), "blend": settings.blend}
            folder.save(
                picture,
                f"{len(drawn):04d}.png",
                build_png_texts(settings, trained, name, number, interpolation=metadata),
            )
            drawn.append(name)
    together = torch.cat(pictures)
    overview = make_grid_picture(together, columns=len(shares))
    folder.save(overview, "strip.png", build_overview_texts(settings, prompts))
    print(f"wrote {len(drawn)} pictures of step {trained.step} to {folder.path}; see {folder.path / 'strip.png'}")
    return drawn
