"""`ldm-train sample`: draw prompts into PNG files, and combine them in a grid, an X/Y plot or a strip."""

import torch
from rich.progress import track

from ldm_train.assembly.drawing import open_sized, read_prompts, read_start
from ldm_train.assembly.picture_folder import PictureFolder
from ldm_train.assembly.quality_warnings import warn_of_lossy_run
from ldm_train.assembly.stored_run import fill_from_run
from ldm_train.commands.sample.png_text import build_overview_texts, build_png_texts
from ldm_train.commands.sample.strip import draw_strip
from ldm_train.commands.sample.xy_plot import draw_plots
from ldm_train.data.pictures.images import to_bytes
from ldm_train.data.pictures.labelled_grid import draw_captioned_grid
from ldm_train.settings.plot_axes import has_axes
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.training.callbacks.picture_grids import make_grid_picture
from ldm_train.util.messages import warn


def run(settings: SampleSettings) -> None:
    """Draw the prompts of the settings into the folder `out`.

    Raises:
        ValueError: the run cannot be read, the settings cannot be drawn with, or a picture contains NaN or infinity.
    """
    prompts = read_prompts(settings.prompts)
    with PictureFolder(settings) as folder:
        if has_axes(settings):
            drawn = draw_plots(settings, prompts, folder)
        elif settings.interpolate is not None:
            drawn = draw_strip(settings, prompts, folder)
        else:
            drawn = draw_grid(settings, [prompt for prompt in prompts for _ in range(settings.count)], folder)
        for warning in warn_of_lossy_run(str(settings.run_dir)):
            warn(warning)
        folder.finish(drawn)


def draw_grid(settings: SampleSettings, prompts: list[str], folder: PictureFolder) -> list[str]:
    """Draw picture i from prompt i with noise number i, and all of them in one grid; return the prompts."""
    folder.expect([*(f"{number:04d}.png" for number in range(len(prompts))), "grid.png"])
    trained = open_sized(settings)
    settings = fill_from_run(settings, trained.config)
    start, pictures = read_start(settings, trained.generation), []
    for first in track(range(0, len(prompts), settings.batch_size), "drawing"):
        batch = prompts[first : first + settings.batch_size]
        images = start.paste(trained.generation(batch, trained.recipe, first=first, picture=start.initial))
        numbers = range(first, first + len(batch))
        trained.generation.require_finite(images, batch, numbers, seed=settings.seed)
        pictures.append(to_bytes(images).cpu())
        for number, picture in enumerate(pictures[-1], start=first):
            folder.save(picture, f"{number:04d}.png", build_png_texts(settings, trained, prompts[number], number))
    together = torch.cat(pictures)
    columns = settings.count if 1 < settings.count <= 8 else min(8, len(prompts))
    if settings.labels:
        overview = draw_captioned_grid(together, prompts, columns=columns)
    else:
        overview = make_grid_picture(together, columns=columns)
    folder.save(overview, "grid.png", build_overview_texts(settings, prompts))
    print(f"wrote {len(prompts)} pictures of step {trained.step} to {folder.path}; see {folder.path / 'grid.png'}")
    return prompts
