"""Training a noise predictor, on one page: latents and captions in, a weighted error out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ldm_train import draws
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.diffusion.broadcast import on_device
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.objective import Losses, Objective
from ldm_train.diffusion.perturbations import NONE, Perturbations
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.diffusion.timesteps import Timesteps
from ldm_train.diffusion.weighting import Weighting
from ldm_train.training.base_module import Examined, Training
from ldm_train.training.optimization.lr_schedules import LRSchedule
from ldm_train.training.optimization.parameter_groups import DEFAULT, ParameterGroups
from ldm_train.training.optimization.sharding import shard
from ldm_train.types import LatentBatch


class NoisePredictorTraining(Training):
    """The Trainer's view of a network and its text encoder.

    Args:
        network: called as types.Network says.
        text_encoder: captions to conditioning; trained along where its parameters want gradients.
        scaling: raw latents to model latents.
        timesteps, weighting, perturbations: of the training loss; a weighting that is a module is trained along.
        batch_size: the global batch, which stratified timesteps divide.
        optimizer, parameter_groups, lr_schedule, seed, fused_backward: as Training has them.
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
        optimizer: Callable[[ParamsT], Optimizer],
        parameter_groups: ParameterGroups = DEFAULT,
        lr_schedule: LRSchedule,
        batch_size: int,
        seed: int = 0,
        fused_backward: bool = False,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            parameter_groups=parameter_groups,
            lr_schedule=lr_schedule,
            seed=seed,
            fused_backward=fused_backward,
        )
        parameter_groups.check(text_encoder)
        self.network = network
        self.text_encoder = text_encoder
        self.scaling = scaling
        self.timesteps = timesteps
        self.weighting = weighting
        self.perturbations = perturbations
        self.objective = Objective(Denoiser(network, schedule, prediction), weighting)
        self.batch_size = batch_size

    def configure_model(self) -> None:
        """Share out the parameters, where the strategy made a mesh of the processes for that."""
        if self.device_mesh is not None:
            shard((self.network, self.text_encoder, self.weighting), self.device_mesh)

    def training_step(self, batch: LatentBatch, batch_idx: int) -> dict[str, Tensor]:
        schedule = self.objective.denoiser.schedule
        t = self.timesteps(batch.positions, schedule=schedule, seed=self.seed, batch_size=self.batch_size)
        losses = self.losses(batch, t, stream="", perturbations=self.perturbations)
        self.examined = Examined(batch.positions, losses.loss.detach(), t)
        return {"loss": losses.loss.mean(), "noise_mse": losses.noise_mse.mean()}

    def losses(self, batch: LatentBatch, t: Tensor, *, stream: str, perturbations: Perturbations = NONE) -> Losses:
        """Losses (B,) of a batch at t (B,), with draws keyed by the batch's positions in streams of this prefix."""
        mean = batch.moments.mean
        assert isinstance(self.dtype, torch.dtype)
        dtype = torch.promote_types(self.dtype, torch.float32)  # the stored type is for storage alone
        posterior, noise = (
            draws.normal(self.seed, stream + name, batch.positions, mean.shape[1:]) for name in ("posterior", "noise")
        )
        noise, shown = perturbations(noise, batch.positions, seed=self.seed)
        posterior, noise, shown = (on_device(drawn.to(dtype), mean.device) for drawn in (posterior, noise, shown))
        latents = self.scaling.to_model(batch.moments.draw(posterior))
        return self.objective(latents, noise, t, self.text_encoder(batch.captions), shown_noise=shown)
