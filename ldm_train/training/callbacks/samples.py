"""Pictures while a run trains: of fixed prompts, of captions next to the true pictures, and film strips."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.pictures.images import save_png, to_display_bytes
from ldm_train.generation import Generation
from ldm_train.training.callbacks.condition_pictures import depict_conditions
from ldm_train.training.callbacks.drawing_plan import Drawing
from ldm_train.training.callbacks.film import (
    ReverseFilm,
    load_model_latents,
    make_forward_strip,
)
from ldm_train.training.callbacks.growth import add_growth_row
from ldm_train.training.callbacks.picture_grids import (
    draw_over_ranks,
    fit_on_white,
    make_grid_picture,
    make_rows_picture,
    stack_labelled,
    stack_on_white,
)
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.callbacks.step_log import is_due
from ldm_train.training.ema.ema import EMA
from ldm_train.training.loggers.dashboards import log_picture, warn_of_nonfinite
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.types import Given
from ldm_train.util.files import atomic_write

SAMPLE_COLUMNS = 8
GROWTH_PICTURE = "growth.png"
PREFIXES = {"samples": "", "pairs": "pairs-", "reverse": "reverse-", "forward": "forward-"}


class Samples(Callback):
    """Draw with the averaged weights, on all ranks together; write `samples/step-….png` and others, and log them.

    The networks compute in the training's precision, such as bf16-mixed; everything else, including the autoencoder, in
    float32.

    Args:
        generation: builds the generation from the module's network and text encoder.
        every: optimizer steps; also at the end of the run.
        spent: to which the time of drawing is added.
    """

    def __init__(
        self,
        run_dir: Path,
        ema: EMA,
        generation: Callable[[NoisePredictorTraining], Generation],
        drawing: Drawing,
        *,
        every: int,
        spent: TimeSpent | None = None,
    ) -> None:
        self.spent = spent or TimeSpent()
        self.folder = run_dir / "samples"
        self.ema = ema
        self.generation = generation
        self.drawing = drawing
        self.every = every
        self._true: Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.drawing.prompts and is_due(trainer, batch_idx, every=self.every):
            assert isinstance(pl_module, NoisePredictorTraining)
            with self.spent("pictures"):
                self._show(trainer, pl_module)

    def _show(self, trainer: pl.Trainer, module: NoisePredictorTraining) -> None:
        with self.ema.swapped(module), module.at_rest():  # in this order, because autocast caches the weights that it casts
            generation = self.generation(module)
            pictures, row = self._draw(trainer, generation)
        if trainer.is_global_zero:
            data = trainer.datamodule  # type: ignore[attr-defined]
            pictures["forward"] = make_forward_strip(module, data, generation, seed=self.drawing.recipe.seed)
            self._keep(trainer, pictures, row)

    def _draw(self, trainer: pl.Trainer, generation: Generation) -> tuple[dict[str, Tensor], Tensor]:
        """Return pictures to show by name, and the prompts' pictures (B, 3, H, W) at the first guidance scale."""
        drawing, rank, world = self.drawing, trainer.global_rank, trainer.world_size
        data: CachedLatents = trainer.datamodule  # type: ignore[attr-defined]
        at_once = data.geometry.rows
        given = generation.given_of(data.given, torch.tensor([example.number for example in drawing.examples]))
        film = ReverseFilm(*self._first(generation))
        drawn = self._draw_prompts(generation, film, given, rank=rank, world=world, at_once=at_once)
        rows = [*stack_on_white([picture for row in drawn for picture in row]).chunk(len(drawn))]
        pictures = {"samples": self._grid(rows)}
        if rank == 0:
            warn_of_nonfinite(trainer, "pictures of prompts", [picture for row in drawn for picture in row])
        if drawing.shows_examples:
            of_captions = rows[0]
        else:
            captions = drawing.example_captions
            of_captions = draw_over_ranks(
                generation, captions, drawing.recipe, rank=rank, world=world, at_once=at_once, given=given
            )
            if rank == 0:
                warn_of_nonfinite(trainer, "pictures of captions", of_captions)
        truth = self._truth(trainer, generation, of_captions)
        conditions = depict_conditions(generation, given, (truth.shape[2], truth.shape[3]))
        pictures["pairs"] = self._pairs([truth, *conditions, of_captions])
        return pictures | ({"reverse": film.strip} if rank == 0 else {}), rows[0]

    def _first(self, generation: Generation) -> tuple[Generation, int]:
        """Return the generation and the number of steps of the first prompt."""
        alike = self.drawing.groups_of_prompts[0]
        return set_sides(generation, alike.size), alike.recipes[0].steps

    def _draw_prompts(
        self,
        generation: Generation,
        film: ReverseFilm,
        given: Mapping[str, Given],
        *,
        rank: int,
        world: int,
        at_once: int,
    ) -> list[list[Tensor]]:
        """Return the picture of each prompt, (3, H, W) uint8, in a row for each guidance scale.

        Args:
            given: what is known for the conditions of the examples; prompts of one's own get it of these in turn.
        """
        drawn: list[dict[int, Tensor]] = [{} for _ in self.drawing.recipes]
        for index, alike in enumerate(self.drawing.groups_of_prompts):
            sized = set_sides(generation, alike.size)
            fewer = math.prod(generation.sides) / math.prod(sized.sides)  # larger pictures take more memory
            prompts = [self.drawing.prompts[place] for place in alike.places]
            rows = torch.tensor(alike.places) % max(1, len(self.drawing.examples))
            own = {
                one.name: one.gather([given[one.name][rows]], latent_size=sized.latent_shape[1:])
                for one in sized.conditions.each
            }
            for number, (row, recipe) in enumerate(zip(drawn, alike.recipes, strict=True)):
                pictures = draw_over_ranks(
                    sized,
                    prompts,
                    recipe,
                    rank=rank,
                    world=world,
                    numbers=alike.numbers,
                    at_once=max(1, int(at_once * min(1.0, fewer))),
                    given=own,
                    callback=film if rank == index == number == 0 else None,
                )
                row.update(zip(alike.places, pictures, strict=True))
        return [[row[place] for place in sorted(row)] for row in drawn]

    def _grid(self, rows: Sequence[Tensor]) -> Tensor:
        """Return pictures (B, 3, H, W) of all prompts, a row for each guidance scale; captions of examples are labelled."""

        def arrange(parts: Sequence[Tensor]) -> Tensor:
            count = len(parts[0])
            return make_grid_picture(
                torch.cat(list(parts)), columns=min(SAMPLE_COLUMNS, count) if len(parts) == 1 else count
            )

        if not self.drawing.kinds:
            return arrange(rows)
        groups = self.drawing.groups
        return stack_labelled({kind: arrange([row[chosen] for row in rows]) for kind, chosen in groups.items()})

    def _pairs(self, rows: Sequence[Tensor]) -> Tensor:
        """Return the examples' pictures, what they are conditioned on, and the drawn ones below each other.

        Trained ones stand apart from held-out ones, and are labelled.
        """
        groups = self.drawing.groups
        columns = min(SAMPLE_COLUMNS, max(len(chosen) for chosen in groups.values()))
        return stack_labelled(
            {kind: make_rows_picture([row[chosen] for row in rows], columns=columns) for kind, chosen in groups.items()}
        )

    def _truth(self, trainer: pl.Trainer, generation: Generation, drawn: Tensor) -> Tensor:
        """Return the examples as the autoencoder decodes them, at the size of what is drawn, (B, 3, H, W) uint8."""
        if self._true is None:
            data = trainer.datamodule  # type: ignore[attr-defined]
            latents = [load_model_latents(data, example.number, generation) for example in self.drawing.examples]
            pictures = [to_display_bytes(generation.decode(one))[0].cpu() for one in latents]
            self._true = torch.stack([fit_on_white(picture, (drawn.shape[2], drawn.shape[3])) for picture in pictures])
        return self._true

    def _keep(self, trainer: pl.Trainer, pictures: Mapping[str, Tensor], row: Tensor) -> None:
        """Write the pictures and log them; `row` (B, 3, H, W) is added to the picture of the whole run."""
        step, settings = trainer.global_step, self.drawing.settings((row.shape[2], row.shape[3]))
        for name, picture in pictures.items():
            save_png(picture, self.folder / f"{PREFIXES[name]}step-{step:08d}.png")
            log_picture(trainer, name, picture)
        log_picture(
            trainer,
            "growth",
            add_growth_row(self.folder / GROWTH_PICTURE, row, step=step, every=self.every, settings=settings),
        )
        atomic_write(self.folder / "prompts.json", json.dumps(settings, indent=2) + "\n")


def set_sides(generation: Generation, size: tuple[int, int] | None) -> Generation:
    """Return a generation that draws pictures of another (height, width); None for its own."""
    return generation if size is None else replace(generation, size=size)
