"""Raw latents to model latents and back: the one place where an autoencoder's shift and scale are applied."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from ldm_train.types import Autoencoder

LEAST, MOST = 0.4, 2.5  # deviations of model latents, beyond which something is wrong


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

    def deviation(self, mean: Sequence[float], std: Sequence[float]) -> float:
        """Of model latents around 0, for raw latents of these means and deviations per channel; 1 is right."""
        return self.scale * _rms([(m - self.shift, s) for m, s in zip(mean, std, strict=True)])

    def problem(self, mean: Sequence[float], std: Sequence[float], *, slack: float = 1.0) -> str | None:
        """What is clearly wrong with this scaling for raw latents of these means and deviations per channel; else None.

        A network learns to tell noise of deviation 1 from latents of one near 1; on others it trains, and draws badly.
        `slack` widens what passes, where there are few pictures.
        """
        deviation = self.deviation(mean, std)
        if LEAST / slack < deviation < MOST * slack:
            return None
        if deviation <= LEAST and 0.7 < deviation / self.scale < 1.4:
            cause = "these raw latents look scaled already, so that the scale counts twice"
        elif deviation <= LEAST:
            cause = "an autoencoder that was trained on pictures in another range than [-1, 1], or pictures of no contrast"
        else:
            cause = "a scale that was left out, or that of another autoencoder"
        middle = sum(mean) / len(mean)
        right = 1 / max(_rms([(m - middle, s) for m, s in zip(mean, std, strict=True)]), 1e-8)
        return (
            f"the latents have a deviation of {deviation:.3g} after (raw - {self.shift:.4g}) * {self.scale:.4g}, where near "
            f"1 is right: usually {cause}. On these pictures autoencoder.shift={middle:.4g} autoencoder.scale={right:.4g} "
            "would give 1"
        )


def _rms(parts: Sequence[tuple[float, float]]) -> float:
    """Around 0, of channels of these (mean, deviation)."""
    return (sum(mean**2 + std**2 for mean, std in parts) / len(parts)) ** 0.5
