"""Draw prompts into numbered files and one grid; prompts with the same settings are drawn together."""

from rich.progress import track
from torch import Tensor

from ldm_train.assembly.attention_picture import draw_attention
from ldm_train.assembly.drawing import open_warned
from ldm_train.assembly.picture_folder import PictureFolder
from ldm_train.assembly.picture_groups import draw_batch, group_pictures
from ldm_train.assembly.pixel_formats import read_pixel_format
from ldm_train.assembly.png_text import build_overview_texts, build_png_texts
from ldm_train.assembly.prompt_options import Prompt
from ldm_train.assembly.stored_run import fill_from_run
from ldm_train.data.pictures.images import to_bytes
from ldm_train.data.pictures.labelled_grid import draw_captioned_grid
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.training.callbacks.picture_grids import make_grid_picture, stack_on_white


def draw_grid(settings: SampleSettings, prompts: list[Prompt], folder: PictureFolder) -> list[str]:
    """Draw `count` pictures of each prompt, and all of them in one grid; return the prompt of each.

    Picture i has noise number `first_number` + i; the pictures of a prompt with its own seed are numbered from
    `first_number` again, so that it gives the same pictures in any file.
    """
    count = len(prompts) * settings.count
    maps = [f"{number:04d}-attention.png" for number in range(count)] if settings.attention else []
    trained = open_warned(settings)
    pixels = read_pixel_format(trained.config.pixels)
    ending = "png" if pixels is None else pixels.ending
    folder.expect([*(f"{number:04d}.{ending}" for number in range(count)), *maps, "grid.png"])
    pictures: dict[int, Tensor] = {}
    batches = [
        (alike, i)
        for alike in group_pictures(settings, prompts, trained)
        for i in range(0, len(alike.places), settings.batch_size)
    ]
    for alike, first in track(batches, "drawing"):
        part = slice(first, first + settings.batch_size)
        drawn, attention = draw_batch(alike, part)
        for place, number, prompt, image, picture, words in zip(
            alike.places[part], alike.numbers[part], alike.prompts[part], drawn, to_bytes(drawn), attention, strict=True
        ):
            texts = build_png_texts(alike.settings, alike.trained, prompt, number)
            folder.save_drawn(image, f"{place:04d}.{ending}", texts, pixels)
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
