"""Training a KL autoencoder: L1 and MSE between picture and reconstruction, plus the posterior's divergence from N(0, 1)."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ldm_train import draws
from ldm_train.autoencoders.autoencoder import KLAutoencoder
from ldm_train.diffusion.broadcast import move_to_device
from ldm_train.training.base_module import Examined, Training
from ldm_train.training.optimization.lr_schedules import LRSchedule
from ldm_train.types import ImageBatch, Moments


def kl_divergence(moments: Moments) -> Tensor:
    """KL(N(mean, var) || N(0, 1)) per latent value, mean per example, (B,) (Kingma, Welling 2014, arXiv 1312.6114, B)."""
    assert moments.log_variance is not None
    terms = 0.5 * (moments.mean.square() + moments.log_variance.exp() - 1 - moments.log_variance)
    return terms.flatten(1).mean(1)


class AutoencoderTraining(Training):
    """The Trainer's view of the autoencoder.

    Args:
        autoencoder: trained in place.
        mse_weight, kl_weight: of the terms next to the L1 error; the KL is per latent value.
        optimizer, lr_schedule, seed: as Training has them; all parameters decay alike.
    """

    def __init__(
        self,
        autoencoder: KLAutoencoder,
        *,
        optimizer: Callable[[ParamsT], Optimizer],
        lr_schedule: LRSchedule,
        mse_weight: float = 1.0,
        kl_weight: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer=optimizer, lr_schedule=lr_schedule, seed=seed)
        self.autoencoder = autoencoder
        self.mse_weight = mse_weight
        self.kl_weight = kl_weight

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        moments = self.autoencoder.encode(batch.images)
        noise = draws.normal(self.seed, "posterior", batch.positions, moments.mean.shape[1:])
        decoded = self.autoencoder.decode(moments.draw(move_to_device(noise.to(moments.mean.dtype), moments.mean.device)))
        l1, mse = F.l1_loss(decoded, batch.images), F.mse_loss(decoded, batch.images)
        kl = kl_divergence(moments).mean()
        loss = l1 + self.mse_weight * mse + self.kl_weight * kl
        self.examined = Examined(batch.positions, (decoded.detach() - batch.images).square().flatten(1).mean(1))
        return {"loss": loss, "l1": l1.detach(), "mse": mse.detach(), "kl": kl.detach()}

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images through the posterior's mean, (B, 3, H, W) in [-1, 1]; computed in the training's precision."""
        with self.at_rest():
            decoded = self.autoencoder.decode(self.autoencoder.encode(images.to(self.dtype)).mean)
        decoded = decoded.to(images.dtype)
        return decoded.clamp(-1, 1).masked_fill(~decoded.isfinite(), float("nan"))  # clipping would hide infinity
