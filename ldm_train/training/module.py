"""Training a noise predictor, on one page: latents, captions and further conditions in, a weighted error out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ldm_train.autoencoders.scaling import Scaling
from ldm_train.conditioners.condition import Conditions
from ldm_train.diffusion.broadcast import move_to_device
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.drawn_noise import draw_step_noise
from ldm_train.diffusion.objective import Losses, Objective, Penalty, squared
from ldm_train.diffusion.perturbations import NO_PERTURBATIONS, Perturbations
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.diffusion.timesteps import Timesteps
from ldm_train.diffusion.weighting import Weighting
from ldm_train.training.base_module import Examined, Training
from ldm_train.training.optimization.lr_schedules import LRSchedule
from ldm_train.training.optimization.parameter_groups import DEFAULT_GROUPS, ParameterGroups
from ldm_train.types import LatentBatch
from ldm_train.util.step_noise import StepNoise


class NoisePredictorTraining(Training):
    """The Trainer's view of a network and its text encoder.

    Args:
        network: maps noisy latents, timesteps and conditioning to an output, as types.Network says.
        text_encoder: maps captions to conditioning; its parameters that require gradients are trained too.
        conditions: what else the network is conditioned on.
        scaling: raw latents to model latents.
        timesteps, weighting, penalty, perturbations: of the training loss; a weighting that is a module is trained too.
        batch_size: the global batch, over which stratified timesteps are spread.
        optimizer, parameter_groups, lr_schedule, seed, fused_backward: as in Training.
    """

    def __init__(
        self,
        network: nn.Module,
        text_encoder: nn.Module,
        conditions: Conditions | None = None,
        *,
        scaling: Scaling,
        schedule: NoiseSchedule,
        prediction: Prediction,
        timesteps: Timesteps,
        weighting: Weighting,
        penalty: Penalty = squared,
        perturbations: Perturbations = NO_PERTURBATIONS,
        optimizer: Callable[[ParamsT], Optimizer],
        parameter_groups: ParameterGroups = DEFAULT_GROUPS,
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
        self.network = network
        self.text_encoder = text_encoder
        self.conditions = Conditions() if conditions is None else conditions
        self.scaling = scaling
        self.timesteps = timesteps
        self.weighting = weighting
        self.perturbations = perturbations
        self.objective = Objective(Denoiser(network, schedule, prediction), weighting, penalty)
        self.batch_size = batch_size
        parameter_groups.check(self.trained_parameters(), text_encoder)

    def configure_model(self) -> None:
        """Shard the parameters if the strategy made a device mesh for that."""
        if self.device_mesh is not None:
            from ldm_train.training.optimization.sharding import shard_modules

            shard_modules((self.network, self.text_encoder, self.conditions, self.weighting), self.device_mesh)

    def training_step(self, batch: LatentBatch, batch_idx: int) -> dict[str, Tensor]:
        schedule = self.objective.denoiser.schedule
        t = self.timesteps(batch.positions, schedule=schedule, seed=self.seed, batch_size=self.batch_size)
        losses = self.losses(batch, t, stream="", perturbations=self.perturbations)
        self.examined = Examined(batch.positions, losses.loss.detach(), t)
        loss = losses.loss if batch.loss_weights is None else losses.loss * batch.loss_weights
        return {"loss": loss.mean(), "noise_mse": losses.noise_mse.mean()}

    def losses(
        self, batch: LatentBatch, t: Tensor, *, stream: str, perturbations: Perturbations = NO_PERTURBATIONS
    ) -> Losses:
        """Return the losses (B,) of a batch at t (B,).

        Args:
            stream: prefix of the streams of draws, which are keyed by the batch's positions; "" for those of training, whose
                noise a batch may bring.
        """
        mean = batch.moments.mean
        assert isinstance(self.dtype, torch.dtype)
        dtype = torch.promote_types(self.dtype, torch.float32)  # the cache's dtype, such as float16, is only for storage
        drawn = batch.noise if stream == "" else None
        if drawn is None:
            drawn = draw_step_noise(
                batch.positions, batch.moments, seed=self.seed, stream=stream, perturbations=perturbations
            )
        assert isinstance(drawn, StepNoise)
        noise = move_to_device(drawn.noise, mean.device).to(dtype)
        posterior, input_noise = (
            None if one is None else move_to_device(one, mean.device).to(dtype)
            for one in (drawn.posterior, drawn.input_noise)
        )
        raw_latents = mean.to(dtype) if posterior is None else batch.moments.draw(posterior)
        latents = self.scaling.to_model(raw_latents)
        conditioning = self.conditions(self.text_encoder(batch.captions), batch.conditions)
        mask = None if batch.loss_mask is None else (batch.loss_mask.to(dtype) + 1) / 2
        return self.objective(latents, noise, t, conditioning, input_noise=input_noise, mask=mask)
