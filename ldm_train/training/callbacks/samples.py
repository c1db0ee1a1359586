"""Pictures while a run trains: of fixed prompts, of held-out captions beside the true ones, and one's way from noise."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from ldm_train.data.pictures.images import save_png, to_display_bytes
from ldm_train.generation import Generation, Recipe
from ldm_train.training.callbacks.film import Reverse, forward_strip, latents_of
from ldm_train.training.callbacks.growth import grow
from ldm_train.training.callbacks.picture_grids import draw_together, fitted, grid, pairs, warn_of_broken
from ldm_train.training.callbacks.spent import Spent
from ldm_train.training.callbacks.step_log import is_due
from ldm_train.training.ema.ema import EMA
from ldm_train.training.loggers.dashboards import log_picture
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.util.files import atomic_write

COLUMNS = 8
GROWTH = "growth.png"
PREFIXES = {"samples": "", "held_out": "held-out-", "reverse": "reverse-", "forward": "forward-"}


@dataclass(frozen=True)
class Drawing:
    """Which pictures of a run are drawn, and how.

    Args:
        prompts: the same ones every time; of the first, the way from noise is shown.
        recipes: by guidance scale; each draws all prompts. The first one draws what else there is.
        held_out: captions of held-out examples by the examples' numbers, drawn beside what the examples show.
    """

    prompts: list[str]
    recipes: Mapping[float, Recipe]
    held_out: Mapping[int, str]

    @cached_property
    def recipe(self) -> Recipe:
        return next(iter(self.recipes.values()))

    @property
    def captions(self) -> list[str]:
        """All that is ever drawn."""
        return [*self.prompts, *self.held_out.values(), self.recipe.negative_prompt]

    def settings(self, size: tuple[int, int]) -> dict[str, object]:
        """As plain values."""
        return {"prompts": self.prompts, "guidance": list(self.recipes), "size": list(size), "seed": self.recipe.seed}


class Samples(Callback):
    """Draws with the averaged weights, on all ranks together: `samples/step-….png` and its like, and all dashboards.

    The networks compute in the training's precision, such as bf16-mixed; the rest, the autoencoder too, in float32.

    Args:
        generation: makes the pictures of the module's network and text encoder.
        every: optimizer steps; also at the end of the run.
        spent: what its time is added to.
    """

    def __init__(
        self,
        run_dir: Path,
        ema: EMA,
        generation: Callable[[NoisePredictorTraining], Generation],
        drawing: Drawing,
        *,
        every: int,
        spent: Spent | None = None,
    ) -> None:
        self.spent = spent or Spent()
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
        with self.ema.swapped(module), module.at_rest():  # in this order: autocast remembers weights
            generation = self.generation(module)
            pictures, row = self._draw(trainer, generation)
        if trainer.is_global_zero:
            data = trainer.datamodule  # type: ignore[attr-defined]
            pictures["forward"] = forward_strip(module, data, generation, seed=self.drawing.recipe.seed)
            self._keep(trainer, pictures, row)

    def _draw(self, trainer: pl.Trainer, generation: Generation) -> tuple[dict[str, Tensor], Tensor]:
        """What is shown, by name, and the prompts' pictures (B, 3, H, W) at the first scale."""
        drawing, prompts = self.drawing, self.drawing.prompts
        rank, world = trainer.global_rank, trainer.world_size
        film = Reverse(generation, drawing.recipe.steps)
        rows = [
            draw_together(generation, prompts, recipe, rank=rank, world=world, callback=watch if rank == 0 else None)
            for recipe, watch in zip(drawing.recipes.values(), [film, *[None] * len(drawing.recipes)], strict=False)
        ]
        columns = min(COLUMNS, len(prompts)) if len(rows) == 1 else len(prompts)
        shown = {"samples": grid(torch.cat(rows), columns=columns)}
        if rank == 0:
            warn_of_broken(trainer, "pictures of prompts", torch.cat(rows))
        captions = list(drawing.held_out.values())
        if captions:
            same = captions == prompts
            drawn = rows[0] if same else draw_together(generation, captions, drawing.recipe, rank=rank, world=world)
            if rank == 0 and not same:
                warn_of_broken(trainer, "pictures of held-out captions", drawn)
            shown["held_out"] = pairs(self._truth(trainer, generation, drawn), drawn, columns=min(COLUMNS, len(captions)))
        return shown | ({"reverse": film.strip} if rank == 0 else {}), rows[0]

    def _truth(self, trainer: pl.Trainer, generation: Generation, drawn: Tensor) -> Tensor:
        """The held-out examples as the autoencoder gives them back, at the size of what is drawn, (B, 3, H, W) uint8."""
        if self._true is None:
            data = trainer.datamodule  # type: ignore[attr-defined]
            latents = [latents_of(data, example, generation) for example in self.drawing.held_out]
            pictures = [to_display_bytes(generation.decode(one))[0].cpu() for one in latents]
            self._true = torch.stack([fitted(picture, (drawn.shape[2], drawn.shape[3])) for picture in pictures])
        return self._true

    def _keep(self, trainer: pl.Trainer, pictures: Mapping[str, Tensor], row: Tensor) -> None:
        """On disk and in the dashboards; `row` (B, 3, H, W) is added to the picture of the whole run."""
        step, settings = trainer.global_step, self.drawing.settings((row.shape[2], row.shape[3]))
        for name, picture in pictures.items():
            save_png(picture, self.folder / f"{PREFIXES[name]}step-{step:08d}.png")
            log_picture(trainer, name, picture)
        log_picture(trainer, "growth", grow(self.folder / GROWTH, row, step=step, every=self.every, settings=settings))
        atomic_write(self.folder / "prompts.json", json.dumps(settings, indent=2) + "\n")
