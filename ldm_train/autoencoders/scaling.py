"""Convert raw latents to model latents and back: the one place where an autoencoder's shift and scale are applied."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from ldm_train.types import Autoencoder

LEAST_DEVIATION, MOST_DEVIATION = 0.4, 2.5  # of model latents; outside of these the scale is wrong


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
        """Return the scaling by which raw latents (B, C, H, W) get the mean 0 and the deviation 1."""
        return cls(raw_latents.mean().item(), 1 / raw_latents.std().item())

    def before(self, scale: float | None) -> "Scaling":
        """Return the scaling that is left to do before latents are multiplied by a scale; None: before this one's own."""
        return Scaling(self.shift, 1.0 if scale is None else self.scale / scale)

    def to_model(self, raw_latents: Tensor) -> Tensor:
        return (raw_latents - self.shift) * self.scale

    def to_raw(self, latents: Tensor) -> Tensor:
        return latents / self.scale + self.shift

    def deviation(self, mean: Sequence[float], std: Sequence[float]) -> float:
        """Return the root mean square of model latents, from the raw latents' mean and deviation per channel; 1 is right."""
        return self.scale * _rms([(m - self.shift, s) for m, s in zip(mean, std, strict=True)])

    def problem(self, mean: Sequence[float], std: Sequence[float], *, slack: float = 1.0) -> str | None:
        """Return what is clearly wrong with this scaling, from the raw latents' means and deviations per channel, else None.

        Noise has the deviation 1, so a network trained on latents of a very different one generates bad images.

        Args:
            slack: factor that widens the accepted range, for statistics of few images.
        """
        deviation = self.deviation(mean, std)
        if LEAST_DEVIATION / slack < deviation < MOST_DEVIATION * slack:
            return None
        if deviation <= LEAST_DEVIATION and 0.7 < deviation / self.scale < 1.4:
            cause = "raw latents that were scaled already, so the scale is applied twice"
        elif deviation <= LEAST_DEVIATION:
            cause = "an autoencoder trained on images in another range than [-1, 1], or pictures without contrast"
        else:
            cause = "a missing scale, or the scale of another autoencoder"
        middle = sum(mean) / len(mean)
        right = 1 / max(_rms([(m - middle, s) for m, s in zip(mean, std, strict=True)]), 1e-8)
        return (
            f"the latents have a deviation of {deviation:.3g} after (raw - {self.shift:.4g}) * {self.scale:.4g}, which "
            f"should be near 1. The usual cause: {cause}. For these pictures set "
            f"autoencoder.shift={middle:.4g} autoencoder.scale={right:.4g}"
        )


def _rms(parts: Sequence[tuple[float, float]]) -> float:
    """Return the root mean square over channels with these (mean, deviation)."""
    return (sum(mean**2 + std**2 for mean, std in parts) / len(parts)) ** 0.5
