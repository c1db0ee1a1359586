"""The validation loss: on held-out examples, with draws fixed per example, so that two checkpoints meet the same noise."""

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from ldm_train.data.datamodules import CachedLatents
from ldm_train.training.callbacks.step_log import step_ended
from ldm_train.training.dashboards import log_scalars
from ldm_train.training.ema import EMA
from ldm_train.training.module import NoisePredictorTraining


class Validation(Callback):
    """Logs `validation_loss` and `validation_noise_mse` of the averaged weights, computed in the training's precision.

    Args:
        every: optimizer steps; also at the end of the run.
        batch_size: examples of one forward pass, over which the loss does not depend.
        repeats: timesteps per example, evenly spread over those of the training.
    """

    def __init__(self, ema: EMA, *, every: int, batch_size: int = 64, repeats: int = 4) -> None:
        self.ema = ema
        self.every = every
        self.batch_size = batch_size
        self.repeats = repeats

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not step_ended(trainer, batch_idx) or not (step % self.every == 0 or step == trainer.max_steps):
            return
        assert isinstance(pl_module, NoisePredictorTraining)
        data = trainer.datamodule  # type: ignore[attr-defined]
        if len(data.held_out):
            with self.ema.swapped(pl_module):
                losses = validation_losses(
                    pl_module,
                    data,
                    batch_size=self.batch_size,
                    repeats=self.repeats,
                    rank=trainer.global_rank,
                    world=trainer.world_size,
                )
            log_scalars(trainer, {f"validation_{name}": value for name, value in losses.items()})


def validation_losses(
    module: NoisePredictorTraining, data: CachedLatents, *, batch_size: int, repeats: int, rank: int = 0, world: int = 1
) -> dict[str, float]:
    """Mean `loss` and `noise_mse` over all held-out examples, each at `repeats` timesteps; shared among the ranks."""
    count = len(data.held_out)
    # Sums in float64: the grouping into batches and ranks must not show.
    sums = torch.zeros(2, dtype=torch.float64, device=module.device)
    for repeat in range(repeats):
        for portion in data.portions(torch.arange(count), batch_size * world):
            mine = portion[rank::world]
            # Sharded parameters need every rank at every forward pass: one without examples of its own computes another's.
            indices = mine if len(mine) else portion[:1]
            batch = data.transfer_batch_to_device(data.held_out_batch(indices), module.device, 0)
            with module.at_rest():
                losses = module.losses(batch, spread(indices, repeat, repeats, module), stream=f"held out {repeat} ")
            if len(mine):
                sums += torch.stack([losses.loss.double().sum(), losses.noise_mse.double().sum()])
    if world > 1:
        torch.distributed.all_reduce(sums)
    loss, noise_mse = (sums / (count * repeats)).tolist()
    return {"loss": loss, "noise_mse": noise_mse}


def spread(indices: Tensor, repeat: int, repeats: int, module: NoisePredictorTraining) -> Tensor:
    """A timestep for each example (B,): all examples and repeats together cover the training's distribution evenly."""
    # A stride near the golden ratio keeps neighbouring examples far apart in t.
    quantiles = ((indices.double() * 0.6180339887498949) % 1 + repeat) / repeats
    return module.timesteps.at(quantiles, module.objective.denoiser.schedule)
