"""Draw the noise of the next batch in a thread, while the device trains on the present one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ldm_train.types import Moments
from ldm_train.util.step_noise import StepNoise

DrawNoise = Callable[[Tensor, Moments], StepNoise]


class NoiseThread:
    """Starts to draw noise, in page-locked memory if there is a GPU. Lightning fetches each batch a step before its use.

    Args:
        draw: returns the noise of latents with these moments at positions (B,).
    """

    def __init__(self, draw: DrawNoise) -> None:
        self._draw = draw
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="noise")

    def __call__(self, positions: Tensor, moments: Moments) -> Future[StepNoise]:
        return self._thread.submit(self._draw_pinned, positions, moments)

    def _draw_pinned(self, positions: Tensor, moments: Moments) -> StepNoise:
        noise = self._draw(positions, moments)
        return noise.pin_memory() if torch.cuda.is_available() else noise
