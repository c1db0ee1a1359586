"""`ldm-train sample`: prompts to PNG files, and all of them together as a grid, an X/Y plot or a strip."""

import torch
from rich.progress import track

from ldm_train.assembly.drawing import open_sized, read_prompts, read_start
from ldm_train.assembly.picture_folder import PictureFolder
from ldm_train.commands.sample.labelled_grid import captioned
from ldm_train.commands.sample.png_text import of_all, texts
from ldm_train.commands.sample.strip import draw_strip
from ldm_train.commands.sample.xy_plot import draw_plots
from ldm_train.data.pictures.images import to_bytes
from ldm_train.settings.plot_axes import has_axes
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.training.callbacks.picture_grids import make_grid_picture


def run(config: SampleSettings) -> None:
    prompts = read_prompts(config.prompts)
    with PictureFolder(config) as folder:
        if has_axes(config):
            drawn = draw_plots(config, prompts, folder)
        elif config.interpolate is not None:
            drawn = draw_strip(config, prompts, folder)
        else:
            drawn = draw_grid(config, [prompt for prompt in prompts for _ in range(config.count)], folder)
        folder.finish(drawn)


def draw_grid(config: SampleSettings, prompts: list[str], folder: PictureFolder) -> list[str]:
    """A picture of each prompt, the i-th with noise number i, and all in one; what each shows."""
    folder.expect([*(f"{number:04d}.png" for number in range(len(prompts))), "grid.png"])
    trained = open_sized(config)
    start, pictures = read_start(config, trained.generation), []
    for first in track(range(0, len(prompts), config.batch_size), "drawing"):
        batch = prompts[first : first + config.batch_size]
        images = trained.generation(batch, trained.recipe, first=first, picture=start)
        numbers = range(first, first + len(batch))
        trained.generation.require_finite(images, batch, numbers, seed=config.seed)
        pictures.append(to_bytes(images).cpu())
        for number, picture in enumerate(pictures[-1], start=first):
            folder.save(picture, f"{number:04d}.png", texts(config, trained, prompts[number], number))
    together = torch.cat(pictures)
    columns = config.count if 1 < config.count <= 8 else min(8, len(prompts))
    shown = captioned(together, prompts, columns=columns) if config.labels else make_grid_picture(together, columns=columns)
    folder.save(shown, "grid.png", of_all(config, prompts))
    print(f"{len(prompts)} pictures of step {trained.step} in {folder.path}, all together in {folder.path / 'grid.png'}")
    return prompts
