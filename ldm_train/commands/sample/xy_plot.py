"""Draw X/Y plots: a picture for each pair of values on two axes, all with the same noise unless an axis is the seed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from rich.progress import Progress
from torch import Tensor

from ldm_train.assembly.drawing import open_sized, read_start
from ldm_train.assembly.picture_folder import PictureFolder
from ldm_train.assembly.stored_run import TrainedRun, build_recipe, fill_from_run
from ldm_train.commands.sample.png_text import build_overview_texts, build_png_texts
from ldm_train.data.pictures.images import to_bytes
from ldm_train.data.pictures.labelled_grid import draw_labelled_grid
from ldm_train.generation import SamplingSettings
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.plot_axes import Axis, place, read_axes
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.training.callbacks.picture_grids import make_grid_picture


@dataclass(frozen=True)
class Cell:
    """One cell of a plot: its settings, its prompt, and its number among the cells of all plots."""

    settings: SampleSettings
    prompt: str
    number: int

    @property
    def checkpoint(self) -> str:
        return f"{self.settings.run_dir} {self.settings.weights}"

    @property
    def recipe(self) -> str:
        return str([getattr(self.settings, name) for name in ("sampler", "spacing", "guidance", "steps", "seed")])


def draw_plots(settings: SampleSettings, prompts: list[str], folder: PictureFolder) -> list[str]:
    """Draw a plot for each prompt, or one plot if prompts are an axis; return the prompt of each numbered picture."""
    x, y = read_axes(settings, prompts)
    cells = make_cells(settings, prompts, x, y)
    refuse_sizes(cells)
    size = len(x.values) * len(y.values)
    names = ["plot.png"] if len(cells) == size else [f"plot-{number:04d}.png" for number in range(len(cells) // size)]
    folder.expect([*(f"{number:04d}.png" for number in range(len(cells) * settings.count)), *names])
    pictures: dict[int, Tensor] = {}
    with Progress() as progress:
        task = progress.add_task("drawing", total=len(cells))
        for alike in group_cells(cells, lambda cell: cell.checkpoint):
            for cell, drawn in draw_cells(alike, folder):
                pictures[cell.number] = make_grid_picture(drawn, columns=len(drawn)) if len(drawn) > 1 else drawn[0]
                progress.advance(task)
    for number, name in enumerate(names):
        starts = range(number * size, (number + 1) * size, len(x.values))
        table = [[pictures[start + column] for column in range(len(x.values))] for start in starts]
        folder.save(draw_labelled_grid(table, x.labels(), y.labels()), name, build_overview_texts(settings, prompts))
    print(f"wrote {len(cells) * settings.count} pictures to {folder.path}; see {', '.join(names)}")
    return [cell.prompt for cell in cells for _ in range(settings.count)]


def make_cells(settings: SampleSettings, prompts: list[str], x: Axis, y: Axis) -> list[Cell]:
    """Return the cells plot by plot and row by row: the command's settings with the values of the axes."""
    cells: list[Cell] = []
    read_once = cache(read_trained)
    for prompt in prompts[:1] if "prompt" in (x.name, y.name) else prompts:
        for row in y.values:
            for column in x.values:
                cell_settings = place_in_run(settings, [(x, column), (y, row)], read_once)
                cell_prompt = {x.name: column, y.name: row}.get("prompt", prompt)
                cells.append(Cell(cell_settings, str(cell_prompt), len(cells)))
    return cells


def place_in_run(
    settings: SampleSettings, places: Sequence[tuple[Axis, object]], read_run: Callable[[str], TrainSettings]
) -> SampleSettings:
    """Return a command's settings at a place on each axis; what they leave to the run is that of the place's run."""
    for is_run in (True, False):
        for axis, value in places:
            if (axis.name == "checkpoint") == is_run:
                settings = place(settings, axis, value)
        settings = fill_from_run(settings, read_run(settings.run_dir)) if is_run else settings
    return settings


def draw_cells(cells: Sequence[Cell], folder: PictureFolder) -> Iterator[tuple[Cell, Tensor]]:
    """Draw and write cells of one checkpoint; yield each with its uint8 images (count, 3, H, W).

    Raises:
        ValueError: a cell cannot be drawn; this is checked before the first one is drawn.
    """
    trained = open_sized(cells[0].settings)
    for cell in cells:
        trained.generation.check([cell.prompt], build_cell_recipe(cell))
    for alike in group_cells(cells, lambda cell: cell.recipe):
        for cell, drawn in zip(alike, draw_same_recipe(alike, trained), strict=True):
            for number, picture in enumerate(drawn):
                name = f"{cell.number * len(drawn) + number:04d}.png"
                folder.save(picture, name, build_png_texts(cell.settings, trained, cell.prompt, number))
            yield cell, drawn


def draw_same_recipe(cells: Sequence[Cell], trained: TrainedRun) -> Iterable[Tensor]:
    """Return the uint8 images (count, 3, H, W) of cells with one recipe, drawn in batches across cells."""
    settings, recipe = cells[0].settings, build_cell_recipe(cells[0])
    start = read_start(settings, trained.generation)
    prompts = [cell.prompt for cell in cells for _ in range(settings.count)]
    numbers = torch.arange(settings.count).repeat(len(cells))
    batches = [
        start.paste(trained.generation(prompts[i : i + settings.batch_size], recipe, numbers=part, picture=start.initial))
        for i, part in zip(range(0, len(prompts), settings.batch_size), numbers.split(settings.batch_size), strict=True)
    ]
    images = trained.generation.require_finite(torch.cat(batches), prompts, numbers.tolist(), seed=settings.seed)
    return to_bytes(images).cpu().split(settings.count)


def build_cell_recipe(cell: Cell) -> SamplingSettings:
    settings = cell.settings
    assert settings.steps is not None
    return build_recipe(settings, steps=settings.steps, seed=settings.seed, negative_prompt=str(settings.negative_prompt))


def refuse_sizes(cells: Sequence[Cell]) -> None:
    """Raise if the runs of the cells have different picture sizes, which do not fit into one table.

    Raises:
        ValueError: they differ, and `size` is not set.
    """
    runs = [str(cell.settings.run_dir) for cell in cells]
    sizes = {run_dir: read_trained(run_dir).image_size for run_dir in dict.fromkeys(runs)}
    if cells[0].settings.size is None and len(set(sizes.values())) > 1:
        listed = ", ".join(f"{run_dir}: {size} pixels" for run_dir, size in sizes.items())
        first = next(iter(sizes.values()))
        raise ValueError(f"the runs draw pictures of different sizes ({listed}); set size=[{first},{first}] for all")


def group_cells(cells: Sequence[Cell], key: Callable[[Cell], str]) -> list[list[Cell]]:
    """Return groups of cells with equal keys, each in the order of the cells."""
    return [list(alike) for _, alike in groupby(sorted(cells, key=key), key=key)]
