"""The reverse process: from noise to a picture, step by step, and how much the prompt matters at each."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.commands.explain.network_view import predict
from ldm_train.data.pictures.images import to_display_bytes
from ldm_train.diffusion.denoiser import Estimate
from ldm_train.generation import Generation, SamplingSettings
from ldm_train.samplers.base import TimePoint


@dataclass(frozen=True)
class ReverseStep:
    """One step from t to s.

    Args:
        latents: x_t, from which the step starts, (1, C, h, w).
        noisy, estimate: x_t and the clean estimate at it decoded, uint8 (3, H, W).
        noise_difference, clean_difference: root mean square of the difference between what the network says with the prompt
            and with the negative one, of the noise and of the clean estimate.
    """

    t: TimePoint
    s: TimePoint
    latents: Tensor
    noisy: Tensor
    estimate: Tensor
    noise_difference: float
    clean_difference: float


@dataclass(frozen=True)
class ReverseProcess:
    """All steps, and the picture at the end, uint8 (3, H, W)."""

    steps: list[ReverseStep]
    drawn: Tensor


@torch.no_grad()
def trace_reverse(generation: Generation, recipe: SamplingSettings, prompt: str) -> ReverseProcess:
    """Draw the picture number 0 of a prompt, and return each step of it."""
    first = draws.normal(recipe.seed, "initial noise", torch.tensor([0]), generation.latent_shape).to(generation.device)
    points = [TimePoint.of(generation.schedule, t) for t in recipe.spacing(generation.schedule, recipe.steps)]
    states, estimates = [(points[0].alpha ** 2 + points[0].sigma ** 2) ** 0.5 * first], []

    def keep(number: int, x_s: Tensor, estimate: Estimate) -> None:
        states.append(x_s)
        estimates.append(estimate.clean)

    image = generation([prompt], recipe, callback=keep)
    steps = []
    for (t, s), x_t, clean in zip(pairwise(points), states[:-1], estimates, strict=True):
        with_prompt, without = (predict(generation, x_t, t.t, text) for text in (prompt, recipe.negative_prompt))
        shown = to_display_bytes(generation.decode(torch.cat([x_t, clean]))).cpu()
        differences = [_rms(with_prompt.noise - without.noise), _rms(with_prompt.clean - without.clean)]
        steps.append(ReverseStep(t, s, x_t.cpu(), shown[0], shown[1], *differences))
    return ReverseProcess(steps, to_display_bytes(image)[0].cpu())


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
