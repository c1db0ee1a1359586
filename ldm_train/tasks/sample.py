"""`ldm-train sample`: prompts to PNG files, and all of them together as a grid, an X/Y plot or a strip."""

from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.progress import track

from ldm_train.data.images import save_png, to_bytes
from ldm_train.tasks.sampling.cells import draw_plots
from ldm_train.tasks.sampling.plot import captioned
from ldm_train.tasks.sampling.start import open_sized, read_prompts, read_start
from ldm_train.tasks.sampling.strip import draw_strip
from ldm_train.tasks.sampling.text import of_all, texts
from ldm_train.tasks.settings.axes import has_axes
from ldm_train.training.callbacks.pictures import grid


def run(config: DictConfig) -> None:
    prompts, out = read_prompts(config.prompts), Path(config.out)
    if has_axes(config):
        drawn = draw_plots(config, prompts, out)
    elif config.interpolate is not None:
        drawn = draw_strip(config, prompts, out)
    else:
        drawn = draw_grid(config, [prompt for prompt in prompts for _ in range(config.count)], out)
    (out / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in drawn), encoding="utf-8")


def draw_grid(config: DictConfig, prompts: list[str], out: Path) -> list[str]:
    """A picture of each prompt, the i-th with noise number i, and all in one; what each shows."""
    trained = open_sized(config)
    start, pictures = read_start(config, trained.generation), []
    for first in track(range(0, len(prompts), config.batch_size), "drawing"):
        batch = prompts[first : first + config.batch_size]
        images = trained.generation(batch, trained.recipe, first=first, picture=start)
        numbers = range(first, first + len(batch))
        trained.generation.refuse_nonfinite(images, batch, numbers, seed=config.seed)
        pictures.append(to_bytes(images).cpu())
        for number, picture in enumerate(pictures[-1], start=first):
            save_png(picture, out / f"{number:04d}.png", texts(config, trained, prompts[number], number))
    together = torch.cat(pictures)
    columns = config.count if 1 < config.count <= 8 else min(8, len(prompts))
    shown = captioned(together, prompts, columns=columns) if config.labels else grid(together, columns=columns)
    save_png(shown, out / "grid.png", of_all(config, prompts))
    print(f"{len(prompts)} pictures of step {trained.step} in {out}, all together in {out / 'grid.png'}")
    return prompts
