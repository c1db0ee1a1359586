"""X/Y plots: a picture for each pair of values along two axes, all of the same noise where no axis is the seed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from rich.progress import Progress
from torch import Tensor

from ldm_train.assembly.drawing import open_sized, read_start
from ldm_train.assembly.picture_folder import PictureFolder
from ldm_train.assembly.stored_run import TrainedRun, build_recipe, fill_from_run
from ldm_train.commands.sample.labelled_grid import plot
from ldm_train.commands.sample.png_text import of_all, texts
from ldm_train.data.pictures.images import to_bytes
from ldm_train.generation import SamplingSettings
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.plot_axes import Axis, place, read_axes
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.training.callbacks.picture_grids import make_grid_picture


@dataclass(frozen=True)
class Cell:
    """What stands at one place of a plot, and that place's number among all plots'."""

    config: SampleSettings
    prompt: str
    number: int

    @property
    def checkpoint(self) -> str:
        return f"{self.config.run_dir} {self.config.weights}"

    @property
    def recipe(self) -> str:
        return str([getattr(self.config, name) for name in ("sampler", "spacing", "guidance", "steps", "seed")])


def draw_plots(config: SampleSettings, prompts: list[str], folder: PictureFolder) -> list[str]:
    """A plot of each prompt, or one of all where they are an axis; what each numbered picture shows."""
    x, y = read_axes(config, prompts)
    cells = make_cells(config, prompts, x, y)
    refuse_sizes(cells)
    size = len(x.values) * len(y.values)
    names = ["plot.png"] if len(cells) == size else [f"plot-{number:04d}.png" for number in range(len(cells) // size)]
    folder.expect([*(f"{number:04d}.png" for number in range(len(cells) * config.count)), *names])
    pictures: dict[int, Tensor] = {}
    with Progress() as progress:
        task = progress.add_task("drawing", total=len(cells))
        for alike in grouped(cells, lambda cell: cell.checkpoint):
            for cell, drawn in draw_cells(alike, folder):
                pictures[cell.number] = make_grid_picture(drawn, columns=len(drawn)) if len(drawn) > 1 else drawn[0]
                progress.advance(task)
    for number, name in enumerate(names):
        starts = range(number * size, (number + 1) * size, len(x.values))
        table = [[pictures[start + column] for column in range(len(x.values))] for start in starts]
        folder.save(plot(table, x.labels(), y.labels()), name, of_all(config, prompts))
    print(f"{len(cells) * config.count} pictures in {folder.path}, side by side in {', '.join(names)}")
    return [cell.prompt for cell in cells for _ in range(config.count)]


def make_cells(config: SampleSettings, prompts: list[str], x: Axis, y: Axis) -> list[Cell]:
    """Plot by plot, row by row: the command's config with what each place on the axes stands for."""
    cells: list[Cell] = []
    for prompt in prompts[:1] if "prompt" in (x.name, y.name) else prompts:
        for row in y.values:
            for column in x.values:
                own = place(place(config, x, column), y, row)
                shown = {x.name: column, y.name: row}.get("prompt", prompt)
                cells.append(Cell(own, str(shown), len(cells)))
    return cells


def draw_cells(cells: Sequence[Cell], folder: PictureFolder) -> Iterator[tuple[Cell, Tensor]]:
    """The pictures (count, 3, H, W), uint8, of each of these cells of one checkpoint, also written as files.

    Raises:
        ValueError: a cell cannot be drawn; none was, then.
    """
    trained = open_sized(cells[0].config)
    cells = [replace(cell, config=fill_from_run(cell.config, trained.config)) for cell in cells]
    for cell in cells:
        trained.generation.check([cell.prompt], recipe_of(cell))
    for alike in grouped(cells, lambda cell: cell.recipe):
        for cell, drawn in zip(alike, draw_alike(alike, trained), strict=True):
            for number, picture in enumerate(drawn):
                name = f"{cell.number * len(drawn) + number:04d}.png"
                folder.save(picture, name, texts(cell.config, trained, cell.prompt, number))
            yield cell, drawn


def draw_alike(cells: Sequence[Cell], trained: TrainedRun) -> Iterable[Tensor]:
    """The pictures (count, 3, H, W), uint8, of each of these cells of one recipe, in batches over all of them."""
    config, recipe = cells[0].config, recipe_of(cells[0])
    start = read_start(config, trained.generation)
    prompts = [cell.prompt for cell in cells for _ in range(config.count)]
    numbers = torch.arange(config.count).repeat(len(cells))
    batches = [
        trained.generation(prompts[i : i + config.batch_size], recipe, numbers=part, picture=start)
        for i, part in zip(range(0, len(prompts), config.batch_size), numbers.split(config.batch_size), strict=True)
    ]
    images = trained.generation.require_finite(torch.cat(batches), prompts, numbers.tolist(), seed=config.seed)
    return to_bytes(images).cpu().split(config.count)


def recipe_of(cell: Cell) -> SamplingSettings:
    config = cell.config
    return build_recipe(config, steps=config.steps, seed=config.seed, negative_prompt=str(config.negative_prompt))


def refuse_sizes(cells: Sequence[Cell]) -> None:
    """Refuse runs whose pictures have other sizes, and so would not fit into one table."""
    runs = [str(cell.config.run_dir) for cell in cells]
    sizes = {run_dir: read_trained(run_dir).image_size for run_dir in dict.fromkeys(runs)}
    if cells[0].config.size is None and len(set(sizes.values())) > 1:
        told = ", ".join(f"{run_dir} of {size}" for run_dir, size in sizes.items())
        raise ValueError(f"the runs' pictures have other sizes: {told} pixels; size=[HEIGHT,WIDTH] gives all the same")


def grouped(cells: Sequence[Cell], key: Callable[[Cell], str]) -> list[list[Cell]]:
    """Those alike together, each group in the order of the cells."""
    return [list(alike) for _, alike in groupby(sorted(cells, key=key), key=key)]
