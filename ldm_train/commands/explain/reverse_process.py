"""The reverse process: from noise to a picture, step by step, and how much the prompt matters at each."""

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ldm_train import draws
from ldm_train.assembly.word_attention import WordAttention, WordRecorder, attends_to_words
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
    """All steps, the picture at the end, uint8 (3, H, W), and the attention to words, None if there is none."""

    steps: list[ReverseStep]
    drawn: Tensor
    attention: WordAttention | None


@torch.no_grad()
def trace_reverse(generation: Generation, conditioner: nn.Module, recipe: SamplingSettings, prompt: str) -> ReverseProcess:
    """Draw the picture number 0 of a prompt, and return each step of it.

    Args:
        conditioner: the generation's.
    """
    network = generation.network
    assert isinstance(network, nn.Module)
    recorder = None
    if attends_to_words(network, conditioner):
        recorder = WordRecorder(network, conditioner, [prompt], setting="explain")
    first = draws.normal(recipe.seed, "initial noise", torch.tensor([0]), generation.latent_shape).to(generation.device)
    points = [TimePoint.of(generation.schedule, t) for t in recipe.spacing(generation.schedule, recipe.steps)]
    states, estimates = [(points[0].alpha ** 2 + points[0].sigma ** 2) ** 0.5 * first], []

    def keep(number: int, x_s: Tensor, estimate: Estimate) -> None:
        states.append(x_s)
        estimates.append(estimate.clean)
        if recorder is not None:
            recorder(number, x_s, estimate)

    with nullcontext() if recorder is None else recorder:
        image = generation([prompt], recipe, callback=keep)
    steps = []
    for (t, s), x_t, clean in zip(pairwise(points), states[:-1], estimates, strict=True):
        with_prompt, without = (predict(generation, x_t, t.t, text) for text in (prompt, recipe.negative_prompt))
        shown = to_display_bytes(generation.decode(torch.cat([x_t, clean]))).cpu()
        differences = [_rms(with_prompt.noise - without.noise), _rms(with_prompt.clean - without.clean)]
        steps.append(ReverseStep(t, s, x_t.cpu(), shown[0], shown[1], *differences))
    attention = None if recorder is None else recorder.attention[0]
    return ReverseProcess(steps, to_display_bytes(image)[0].cpu(), attention)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
