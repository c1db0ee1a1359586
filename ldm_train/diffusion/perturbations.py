"""Changes to the noise of training, off by default, each in a stream of its own."""

from dataclasses import dataclass

from torch import Tensor

from ldm_train import draws


@dataclass(frozen=True)
class Perturbations:
    """What is added to an example's noise.

    Args:
        offset_noise: times a normal number per example and channel, added to the noise itself, so that a picture's mean is
            learned (Guttenberg 2023, "Diffusion with offset noise"); the target has it too.
        input_perturbation: times further noise in what the network is shown, but not in its target (Ning et al. 2023, arXiv
            2301.11706, algorithm 3), against the difference between training and sampling.
    """

    offset_noise: float = 0.0
    input_perturbation: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("offset_noise", self.offset_noise), ("input_perturbation", self.input_perturbation)):
            if value < 0:
                raise ValueError(f"{name}={value} must be 0 (off) or above")

    def __call__(self, noise: Tensor, positions: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """The target's noise and the shown one, from plain noise (B, C, H, W) of these positions (B,)."""
        if self.offset_noise > 0:
            noise = noise + self.offset_noise * draws.normal(seed, "offset noise", positions, (*noise.shape[1:2], 1, 1))
        if self.input_perturbation > 0:
            return noise, noise + self.input_perturbation * draws.normal(
                seed, "input perturbation", positions, noise.shape[1:]
            )
        return noise, noise


NONE = Perturbations()
