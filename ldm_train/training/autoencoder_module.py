"""Training a KL autoencoder: errors of the reconstruction, the posterior's divergence from N(0, 1), and equivariance.

loss = rec(x, D(z)) + kl_weight * KL + equivariance_weight * rec(tau x, D(tau z)), for z drawn from the posterior E(x) and
tau a scaling and a turn; rec = L1 + mse_weight * MSE + gradient_weight * error of the gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ldm_train import draws
from ldm_train.autoencoders.autoencoder import KLAutoencoder
from ldm_train.diffusion.broadcast import move_to_device
from ldm_train.training.autoencoder_losses import choose_side, gradient_error, kl_divergence, scale_and_turn
from ldm_train.training.base_module import Examined, Training
from ldm_train.training.optimization.lr_schedules import LRSchedule
from ldm_train.training.optimization.parameter_groups import SINGLE_GROUP, ParameterGroups
from ldm_train.types import ImageBatch


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms next to the L1 error; a term with the weight 0 is not computed.

    Args:
        mse, gradient: of the squared error, and of the error of the gradients at several scales.
        kl: per latent value.
        equivariance: of the errors that scaled and turned latents decode with (EQ-VAE, arXiv 2502.09509).
        equivariance_share: of the examples, chosen anew at each step; their errors weigh 1 / share, so that the mean stays.
    """

    mse: float = 1.0
    kl: float = 1e-3
    gradient: float = 0.0
    equivariance: float = 0.0
    equivariance_share: float = 0.5


class AutoencoderTraining(Training):
    """The Trainer's view of the autoencoder.

    Args:
        autoencoder: trained in place.
        weights: of the terms of the loss.
        optimizer, parameter_groups, lr_schedule, seed: as Training has them.
    """

    def __init__(
        self,
        autoencoder: KLAutoencoder,
        *,
        optimizer: Callable[[ParamsT], Optimizer],
        parameter_groups: ParameterGroups = SINGLE_GROUP,
        lr_schedule: LRSchedule,
        weights: LossWeights | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer=optimizer, parameter_groups=parameter_groups, lr_schedule=lr_schedule, seed=seed)
        self.autoencoder = autoencoder
        self.weights = weights or LossWeights()

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        moments = self.autoencoder.encode(batch.images)
        noise = draws.normal(self.seed, "posterior", batch.positions, moments.mean.shape[1:])
        raw_latents = moments.draw(move_to_device(noise.to(moments.mean.dtype), moments.mean.device))
        decoded = self.autoencoder.decode(raw_latents)
        loss, terms = self._reconstruction_loss(decoded, batch.images)
        terms["kl"] = kl_divergence(moments).mean()
        loss = loss + self.weights.kl * terms["kl"]
        if self.weights.equivariance:
            terms["equivariance"] = self._equivariance_loss(raw_latents, batch)
            loss = loss + self.weights.equivariance * terms["equivariance"]
        self.examined = Examined(batch.positions, (decoded.detach() - batch.images).square().flatten(1).mean(1))
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def _reconstruction_loss(self, decoded: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the errors between images and reconstructions, (), and each of them."""
        terms = {"l1": F.l1_loss(decoded, images), "mse": F.mse_loss(decoded, images)}
        loss = terms["l1"] + self.weights.mse * terms["mse"]
        if self.weights.gradient:
            terms["gradient"] = gradient_error(decoded, images)
            loss = loss + self.weights.gradient * terms["gradient"]
        return loss, terms

    def _equivariance_loss(self, raw_latents: Tensor, batch: ImageBatch) -> Tensor:
        """Return rec(tau x, D(tau z)), (): one scale for all examples of a step, and for each example a turn of its own."""
        step, share = torch.tensor([self.global_step]), self.weights.equivariance_share
        chosen = draws.uniform(self.seed, "equivariance", batch.positions) < share
        if not chosen.any():
            return raw_latents.new_zeros(())
        side = choose_side(raw_latents.shape[-1], draws.uniform(self.seed, "equivariance scale", step).item())
        turns = (4 * draws.uniform(self.seed, "equivariance turn", batch.positions[chosen])).long()
        indices = move_to_device(chosen.nonzero()[:, 0], raw_latents.device)
        images = scale_and_turn(batch.images[indices], side * self.autoencoder.factor, turns)
        loss, _ = self._reconstruction_loss(
            self.autoencoder.decode(scale_and_turn(raw_latents[indices], side, turns)), images
        )
        return loss * (len(indices) / (share * len(chosen)))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images through the posterior's mean, (B, 3, H, W) in [-1, 1]; computed in the training's precision."""
        with self.at_rest():
            decoded = self.autoencoder.decode(self.autoencoder.encode(images.to(self.dtype)).mean)
        decoded = decoded.to(images.dtype)
        return decoded.clamp(-1, 1).masked_fill(~decoded.isfinite(), float("nan"))  # clipping would hide infinity
