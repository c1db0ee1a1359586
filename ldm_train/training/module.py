"""Training a noise predictor, on one page: latents and captions in, a weighted error out."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm_train import draws
from ldm_train.diffusion.broadcast import on_device
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.objective import Losses, Objective
from ldm_train.diffusion.perturbations import NONE, Perturbations
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedule import NoiseSchedule
from ldm_train.diffusion.timesteps import Timesteps
from ldm_train.diffusion.weighting import Weighting
from ldm_train.encoders.latents import Scaling
from ldm_train.training.lr_schedules import LRSchedule
from ldm_train.training.optimization import clip_gradients, optimizer_and_schedule
from ldm_train.training.sharding import shard
from ldm_train.types import LatentBatch


class NoisePredictorTraining(pl.LightningModule):
    """The Trainer's view of a network and its text encoder.

    Args:
        network: called as types.Network says.
        text_encoder: captions to conditioning; trained along where its parameters want gradients.
        scaling: raw latents to model latents.
        timesteps, weighting, perturbations: of the training loss; a weighting that is a module is trained along.
        optimizer: parameters to optimizer.
        lr_schedule: factor of the rate by step.
        batch_size: the global batch, which stratified timesteps divide.
        seed: of every draw.
    """

    def __init__(
        self,
        network: nn.Module,
        text_encoder: nn.Module,
        *,
        scaling: Scaling,
        schedule: NoiseSchedule,
        prediction: Prediction,
        timesteps: Timesteps,
        weighting: Weighting,
        perturbations: Perturbations = NONE,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        lr_schedule: LRSchedule,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.text_encoder = text_encoder
        self.scaling = scaling
        self.timesteps = timesteps
        self.weighting = weighting
        self.perturbations = perturbations
        self.objective = Objective(Denoiser(network, schedule, prediction), weighting)
        self.make_optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.batch_size = batch_size
        self.seed = seed

    def configure_model(self) -> None:
        """Share out the parameters, where the strategy made a mesh of the processes for that."""
        if self.device_mesh is not None:
            shard((self.network, self.text_encoder, self.weighting), self.device_mesh)

    def on_train_batch_start(self, batch: LatentBatch, batch_idx: int) -> None:
        """Key the networks' own dropout, if any: it draws from the global generator, which nothing else uses."""
        if any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.modules()):
            stream = f"dropout, rank {self.global_rank}, micro-batch {batch_idx % self.trainer.accumulate_grad_batches}"
            torch.manual_seed(draws.generator(self.seed, stream, self.global_step).initial_seed())

    def training_step(self, batch: LatentBatch, batch_idx: int) -> dict[str, Tensor]:
        schedule = self.objective.denoiser.schedule
        t = self.timesteps(batch.positions, schedule=schedule, seed=self.seed, batch_size=self.batch_size)
        losses = self.losses(batch, t, stream="", perturbations=self.perturbations)
        return {"loss": losses.loss.mean(), "noise_mse": losses.noise_mse.mean()}

    def losses(self, batch: LatentBatch, t: Tensor, *, stream: str, perturbations: Perturbations = NONE) -> Losses:
        """Losses (B,) of a batch at t (B,), with draws keyed by the batch's positions in streams of this prefix."""
        mean = batch.moments.mean
        dtype = torch.promote_types(mean.dtype, torch.float32)  # the stored type is for storage alone
        posterior, noise = (
            draws.normal(self.seed, stream + name, batch.positions, mean.shape[1:]) for name in ("posterior", "noise")
        )
        noise, shown = perturbations(noise, batch.positions, seed=self.seed)
        posterior, noise, shown = (on_device(drawn.to(dtype), mean.device) for drawn in (posterior, noise, shown))
        latents = self.scaling.to_model(batch.moments.draw(posterior))
        return self.objective(latents, noise, t, self.text_encoder(batch.captions), shown_noise=shown)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip_gradients(self, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimizer_and_schedule(self, self.make_optimizer, self.lr_schedule)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer changes, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen parts out; they are loaded from where they came from."""
        frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        frozen = {name: p for name, p in self.named_parameters() if not p.requires_grad}
        checkpoint["state_dict"] = {**frozen, **checkpoint["state_dict"]}
