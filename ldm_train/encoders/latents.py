"""Raw latents to model latents and back: the one place where an autoencoder's shift and scale are applied."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from ldm_train.types import Autoencoder


@dataclass(frozen=True)
class Scaling:
    """latents = (raw - shift) * scale, so that their deviation is near 1 (arXiv 2112.10752, appendix G)."""

    shift: float
    scale: float

    @classmethod
    def of(cls, autoencoder: Autoencoder) -> Self:
        return cls(autoencoder.shift, autoencoder.scale)

    @classmethod
    def measured(cls, raw_latents: Tensor) -> Self:
        """From raw latents (B, C, H, W): their mean, and one over their deviation."""
        return cls(raw_latents.mean().item(), 1 / raw_latents.std().item())

    def to_model(self, raw_latents: Tensor) -> Tensor:
        return (raw_latents - self.shift) * self.scale

    def to_raw(self, latents: Tensor) -> Tensor:
        return latents / self.scale + self.shift
