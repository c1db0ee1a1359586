"""Pictures of fixed prompts while a run trains, and the reverse and the forward process of one as film strips."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from ldm_train.data.datamodules import CachedLatents
from ldm_train.data.images import save_png, to_bytes
from ldm_train.diffusion.denoiser import Estimate
from ldm_train.generation import Generation, Recipe
from ldm_train.training.callbacks.pictures import grid
from ldm_train.training.callbacks.step_log import step_ended
from ldm_train.training.dashboards import log_picture
from ldm_train.training.ema import EMA
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.sharding import is_sharded

FRAMES = 8
PREFIXES = {"samples": "", "reverse": "reverse-", "forward": "forward-"}


@dataclass(frozen=True)
class Drawing:
    """Which pictures of a run are drawn, and how."""

    prompts: list[str]
    recipe: Recipe


class Samples(Callback):
    """Draws the prompts with the averaged weights: `samples/step-….png`, beside it the film strips, and all dashboards.

    The networks compute in the training's precision, such as bf16-mixed; the rest, the autoencoder too, in float32.

    Args:
        generation: makes the pictures of the module's network and text encoder.
        every: optimizer steps; also at the end of the run.
    """

    def __init__(
        self,
        run_dir: Path,
        ema: EMA,
        generation: Callable[[NoisePredictorTraining], Generation],
        drawing: Drawing,
        *,
        every: int,
    ) -> None:
        self.folder = run_dir / "samples"
        self.ema = ema
        self.generation = generation
        self.drawing = drawing
        self.every = every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        draws = trainer.is_global_zero or is_sharded(pl_module)  # sharded parameters need every rank
        if draws and self.drawing.prompts and step_ended(trainer, batch_idx) and due:
            assert isinstance(pl_module, NoisePredictorTraining)
            with self.ema.swapped(pl_module), pl_module.at_rest():  # in this order: autocast remembers weights
                pictures = self._draw(self.generation(pl_module))
            pictures["forward"] = self._forward(pl_module, trainer.datamodule)  # type: ignore[attr-defined]
            for name, picture in pictures.items() if trainer.is_global_zero else ():
                save_png(picture, self.folder / f"{PREFIXES[name]}step-{step:08d}.png")
                log_picture(trainer, name, picture)

    def _draw(self, generation: Generation) -> dict[str, Tensor]:
        drawing = self.drawing
        strip: list[Tensor] = []
        shown = frames(drawing.recipe.steps)

        def watch(number: int, x_s: Tensor, estimate: Estimate) -> None:
            if number in shown:
                strip.append(generation.decode(torch.cat([x_s[:1], estimate.clean[:1]])))

        images = generation(drawing.prompts, drawing.recipe, callback=watch)
        rows = torch.stack(strip, dim=1).flatten(0, 1)
        columns = min(8, len(images))
        return {"samples": grid(to_bytes(images), columns=columns), "reverse": grid(to_bytes(rows), columns=len(strip))}

    @torch.no_grad()
    def _forward(self, module: NoisePredictorTraining, data: CachedLatents) -> Tensor:
        """The first training picture at evenly spaced t, from clean to noise."""
        generation = self.generation(module)
        schedule = generation.schedule
        first = data.readable(torch.cat(data.train)[:1])
        mean = data.latents.moments(first, torch.zeros_like(first)).mean
        latents = module.scaling.to_model(mean.to(module.device, torch.promote_types(mean.dtype, torch.float32)))
        shares = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
        t = module.timesteps.at(shares, schedule) * (shares > 0)
        generator = torch.Generator().manual_seed(self.drawing.recipe.seed)
        noise = torch.randn(latents.shape[1:], generator=generator, dtype=torch.float32).to(latents)
        noisy = schedule.corrupt(latents.expand(FRAMES, -1, -1, -1), noise.expand(FRAMES, -1, -1, -1), t)
        return grid(to_bytes(generation.decode(noisy)), columns=FRAMES)


def frames(steps: int) -> set[int]:
    """The numbers of the steps that a film strip shows: up to `FRAMES`, the last one always."""
    return {round((steps - 1) * (i + 1) / FRAMES) for i in range(FRAMES)}
