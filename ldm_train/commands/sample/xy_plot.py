"""Draw X/Y plots: a picture for each pair of values on two axes, all with the same noise unless an axis is the seed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from rich.progress import Progress
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
from ldm_train.assembly.picture_groups import PictureGroup, draw_batch
from ldm_train.assembly.png_text import build_overview_texts, build_png_texts
from ldm_train.assembly.prompt_options import Prompt
from ldm_train.assembly.stored_run import TrainedRun, fill_from_run, open_run, read_drawn
from ldm_train.data.pictures.images import to_bytes
from ldm_train.data.pictures.labelled_grid import draw_labelled_grid
from ldm_train.settings.plot_axes import Axis, place, read_axes
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.training.callbacks.picture_grids import make_grid_picture
from ldm_train.types import Given
from ldm_train.util.text import list_names

RECIPE = ("sampler", "spacing", "guidance", "steps", "seed", "negative_prompt", "size")  # settings of a cell's drawing


@dataclass(frozen=True)
class Cell:
    """One cell of a plot: its settings, its prompt, and its number among the cells of all plots."""

    settings: SampleSettings
    prompt: Prompt
    number: int

    @property
    def checkpoint(self) -> str:
        return f"{self.settings.run_dir} {self.settings.weights}"

    @property
    def recipe(self) -> str:
        return str([getattr(self.settings, name) for name in RECIPE])


@dataclass(frozen=True)
class AlikeCells:
    """Cells with one recipe, with the picture that they start from and what is given for the conditions."""

    cells: list[Cell]
    start: StartPicture
    given: dict[str, Given]


@dataclass(frozen=True)
class CellsOfCheckpoint:
    """The cells of one checkpoint; `trained` is None where several take turns in memory."""

    alike: list[AlikeCells]
    trained: TrainedRun | None


def draw_plots(settings: SampleSettings, prompts: list[Prompt], folder: PictureFolder) -> list[str]:
    """Draw a plot for each prompt, or one plot if prompts are an axis; return the prompt of each numbered picture."""
    x, y = read_axes(settings, prompts)
    cells = make_cells(settings, prompts, x, y)
    size = len(x.values) * len(y.values)
    refuse_sizes(cells, of_plot=size)
    names = ["plot.png"] if len(cells) == size else [f"plot-{number:04d}.png" for number in range(len(cells) // size)]
    folder.expect([*(f"{number:04d}.png" for number in range(len(cells) * settings.count)), *names])
    pictures: dict[int, Tensor] = {}
    checkpoints = plan_checkpoints(cells)
    with Progress() as progress:
        task = progress.add_task("drawing", total=len(cells))
        for checkpoint in checkpoints:
            for cell, drawn in draw_cells(checkpoint, folder):
                pictures[cell.number] = make_grid_picture(drawn, columns=len(drawn)) if len(drawn) > 1 else drawn[0]
                progress.advance(task)
    for number, name in enumerate(names):
        starts = range(number * size, (number + 1) * size, len(x.values))
        table = [[pictures[start + column] for column in range(len(x.values))] for start in starts]
        texts = build_overview_texts(settings, [str(prompt) for prompt in prompts])
        folder.save(draw_labelled_grid(table, x.labels(), y.labels()), name, texts)
    print(f"wrote {len(cells) * settings.count} pictures to {folder.path}; see {', '.join(names)}")
    return [str(cell.prompt) for cell in cells for _ in range(settings.count)]


def make_cells(settings: SampleSettings, prompts: list[Prompt], x: Axis, y: Axis) -> list[Cell]:
    """Return the cells plot by plot and row by row: the command's settings with the prompt's and the values of the axes.

    Raises:
        ValueError: a prompt itself has what varies along an axis.
    """
    for prompt in prompts:
        for name in {x.name, y.name} & {*prompt.options}:
            raise ValueError(
                f"{prompt.where}: {name} {prompt.options[name]} contradicts {'x' if name == x.name else 'y'}.{name}, along "
                "which it varies; leave one out"
            )
    cells: list[Cell] = []
    read_once = cache(read_drawn)
    for prompt in prompts[:1] if "prompt" in (x.name, y.name) else prompts:
        for row in y.values:
            for column in x.values:
                cell_settings = place_in_run(settings, [(x, column), (y, row)], read_once)
                cell_prompt = {x.name: column, y.name: row}.get("prompt", prompt)
                assert isinstance(cell_prompt, Prompt)
                cell_settings = apply_prompt(cell_settings, cell_prompt, read_once(cell_settings.run_dir))
                cells.append(Cell(cell_settings, cell_prompt, len(cells)))
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


def plan_checkpoints(cells: Sequence[Cell]) -> list[CellsOfCheckpoint]:
    """Return the cells of each checkpoint with what they are drawn from.

    Raises:
        ValueError: a cell cannot be drawn. All are tried here, before the first one is drawn.
    """
    groups = group_cells(cells, lambda cell: cell.checkpoint)
    found = []
    for group in groups:
        trained = open_warned(group[0].settings)
        for cell in group:
            with naming_prompt(cell.prompt):
                set_size(trained, cell.settings).generation.check([cell.prompt.text], build_run_recipe(cell.settings))
        alike = [read_inputs(some, trained) for some in group_cells(group, lambda cell: cell.recipe)]
        found.append(CellsOfCheckpoint(alike, trained if len(groups) == 1 else None))
    return found


def read_inputs(cells: list[Cell], trained: TrainedRun) -> AlikeCells:
    """Return cells with one recipe, with the picture that they start from and what is given for the conditions."""
    settings = cells[0].settings
    with naming_prompt(cells[0].prompt):
        generation = set_size(trained, settings).generation
        return AlikeCells(cells, read_start(settings, generation), read_given(settings, generation))


def draw_cells(checkpoint: CellsOfCheckpoint, folder: PictureFolder) -> Iterator[tuple[Cell, Tensor]]:
    """Draw and write cells of one checkpoint; yield each with its uint8 images (count, 3, H, W)."""
    trained = checkpoint.trained or open_run(checkpoint.alike[0].cells[0].settings)
    for alike in checkpoint.alike:
        sized = set_size(trained, alike.cells[0].settings)
        for cell, drawn in zip(alike.cells, draw_cells_together(alike, sized), strict=True):
            for index, picture in enumerate(drawn):
                name, number = f"{cell.number * len(drawn) + index:04d}.png", cell.settings.first_number + index
                folder.save(picture, name, build_png_texts(cell.settings, sized, cell.prompt.text, number))
            yield cell, drawn


def draw_cells_together(alike: AlikeCells, trained: TrainedRun) -> Iterable[Tensor]:
    """Return the uint8 images (count, 3, H, W) of cells with one recipe, drawn in batches across cells."""
    settings, count = alike.cells[0].settings, alike.cells[0].settings.count
    prompts = [cell.prompt.text for cell in alike.cells for _ in range(count)]
    numbers = [settings.first_number + number for _ in alike.cells for number in range(count)]
    recipe, places = build_run_recipe(settings), [*range(len(prompts))]
    group = PictureGroup(settings, trained, recipe, alike.start, alike.given, places, prompts, numbers)
    size = settings.batch_size
    return to_bytes(torch.cat([draw_batch(group, slice(i, i + size))[0] for i in places[::size]])).split(count)


def refuse_sizes(cells: Sequence[Cell], *, of_plot: int) -> None:
    """Raise if the pictures of a plot have different sizes, which do not fit into one table.

    Args:
        of_plot: the number of cells of one plot.

    Raises:
        ValueError: they differ.
    """
    side_of_run = cache(lambda run_dir: read_drawn(run_dir).image_size)
    for start in range(0, len(cells), of_plot):
        sizes = {
            f"{cell.settings.run_dir}, {cell.prompt}": tuple(cell.settings.size or [side_of_run(cell.settings.run_dir)] * 2)
            for cell in cells[start : start + of_plot]
        }
        if len({*sizes.values()}) > 1:
            listed = list_names([f"{name}: {height} x {width}" for name, (height, width) in sizes.items()])
            height, width = next(iter(sizes.values()))
            raise ValueError(
                f"the pictures of one plot have different sizes ({listed} pixels); set size=[{height},{width}], and give no "
                "prompt a size of its own"
            )


def group_cells(cells: Sequence[Cell], key: Callable[[Cell], str]) -> list[list[Cell]]:
    """Return groups of cells with equal keys, each in the order of the cells."""
    return [list(alike) for _, alike in groupby(sorted(cells, key=key), key=key)]
