"""The noise of a training step, which moves to a device as a whole."""

from collections.abc import Callable

import torch
from torch import Tensor


class StepNoise:
    """The noise of a training step, float32.

    It is no dataclass: Lightning rounds what is in those to trainer.precision=bf16-true.

    Args:
        noise: of the target, (B, C, H, W).
        posterior: of the latents' posterior sample, (B, C, H, W); None if they have no posterior.
        input_noise: of the network's input, (B, C, H, W); None if it is `noise`.
    """

    def __init__(self, noise: Tensor, *, posterior: Tensor | None, input_noise: Tensor | None) -> None:
        self.noise = noise
        self.posterior = posterior
        self.input_noise = input_noise

    def pin_memory(self) -> "StepNoise":
        """Return it in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "StepNoise":
        """Return it on a device; Lightning calls this, too. A copy to a GPU does not wait."""
        return self._each(lambda values: values.to(device, non_blocking=device.type == "cuda"))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "StepNoise":
        posterior, input_noise = (None if one is None else change(one) for one in (self.posterior, self.input_noise))
        return StepNoise(change(self.noise), posterior=posterior, input_noise=input_noise)
