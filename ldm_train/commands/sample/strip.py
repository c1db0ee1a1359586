"""Pictures on the way from prompt to prompt, and from seed to seed, side by side."""

from itertools import pairwise

import torch
from rich.progress import track
from torch import Tensor

from ldm_train.assembly.drawing import open_sized
from ldm_train.assembly.picture_folder import PictureFolder
from ldm_train.commands.sample.png_text import of_all, texts
from ldm_train.data.pictures.images import to_bytes
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.training.callbacks.picture_grids import make_grid_picture


def draw_strip(config: SampleSettings, prompts: list[str], folder: PictureFolder) -> list[str]:
    """`interpolate` pictures from each prompt to the next, both among them, all with noise number 0; what each shows.

    Every two prompts are a row of `strip.png`. The noise goes from `seed` to `to_seed` in each row, and back in the next.

    Raises:
        ValueError: one prompt, and no other seed either.
    """
    assert config.interpolate is not None
    if len(prompts) == 1 and config.to_seed is None:
        raise ValueError(f"interpolate={config.interpolate} needs two prompts, or to_seed=1 for one prompt's noise")
    trained, shares = open_sized(config), torch.linspace(0, 1, config.interpolate)
    pairs = list(pairwise(prompts)) or [(prompts[0], prompts[0])]
    trained.generation.check(prompts, trained.recipe)
    folder.expect([*(f"{number:04d}.png" for number in range(len(pairs) * len(shares))), "strip.png"])
    seeds = [config.seed, config.seed if config.to_seed is None else config.to_seed]
    pictures: list[Tensor] = []
    shown: list[str] = []
    places = [(row, part) for row in range(len(pairs)) for part in shares.split(config.batch_size)]
    for row, part in track(places, "drawing"):
        ends = (seeds[row % 2], seeds[1 - row % 2])
        images = trained.generation.interpolate(pairs[row], trained.recipe, part, seeds=ends, blend=config.blend)
        names = [f"{pairs[row][0]} - {share:.0%} - {pairs[row][1]}" for share in part.tolist()]
        trained.generation.require_finite(images, names, [0] * len(names), seed=ends[0])
        pictures.append(to_bytes(images).cpu())
        for share, picture, name in zip(part.tolist(), pictures[-1], names, strict=True):
            told = {"from": pairs[row][0], "to": pairs[row][1], "share": share, "seeds": list(ends), "blend": config.blend}
            folder.save(picture, f"{len(shown):04d}.png", texts(config, trained, name, 0, interpolation=told))
            shown.append(name)
    together = torch.cat(pictures)
    folder.save(make_grid_picture(together, columns=config.interpolate), "strip.png", of_all(config, prompts))
    print(f"{len(shown)} pictures of step {trained.step} in {folder.path}, all together in {folder.path / 'strip.png'}")
    return shown
