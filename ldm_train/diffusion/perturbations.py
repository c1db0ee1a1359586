"""Changes to the noise of training, off by default. Each draws from its own stream, so it leaves other draws as they are."""

from dataclasses import dataclass

from torch import Tensor

from ldm_train import draws


@dataclass(frozen=True)
class Perturbations:
    """Numbers that are added to an example's noise.

    Args:
        offset_noise: standard deviation of one number per example and channel, added to the noise in input and target, so
            that the mean of a picture is learned (Guttenberg 2023, "Diffusion with offset noise").
        input_perturbation: standard deviation of further noise in the network's input, but not in the target, to bring
            training nearer to sampling (Ning et al. 2023, arXiv 2301.11706, algorithm 3).
    """

    offset_noise: float = 0.0
    input_perturbation: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("offset_noise", self.offset_noise), ("input_perturbation", self.input_perturbation)):
            if value < 0:
                raise ValueError(f"{name}={value} must be 0 (off) or above")

    def __call__(self, noise: Tensor, positions: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """Return (noise of the target, noise of the input) made from plain noise (B, C, H, W) at positions (B,)."""
        if self.offset_noise > 0:
            noise = noise + self.offset_noise * draws.normal(seed, "offset noise", positions, (*noise.shape[1:2], 1, 1))
        if self.input_perturbation > 0:
            return noise, noise + self.input_perturbation * draws.normal(
                seed, "input perturbation", positions, noise.shape[1:]
            )
        return noise, noise


NO_PERTURBATIONS = Perturbations()
