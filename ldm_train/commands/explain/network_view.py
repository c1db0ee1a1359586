"""What the network sees and says at one step: the noise that was added, the noise that it predicts, what follows from it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.commands.explain.forward_process import LATENT_NOISE, choose_times, draw_noise
from ldm_train.commands.explain.own_picture import OwnPicture
from ldm_train.data.pictures.images import to_display_bytes
from ldm_train.diffusion.denoiser import Estimate
from ldm_train.generation import Generation
from ldm_train.samplers.base import TimePoint

VIEWED = 9  # points of time that are looked at closely
LEVELS, DRAWN = 12, 2  # noise levels at which errors are measured, and draws of noise at each


@dataclass(frozen=True)
class NetworkView:
    """The network at one point of time; all tensors without the batch.

    Args:
        network_time: the number that the network is given for t.
        noisy: x_t decoded, uint8 (3, H, W).
        added, predicted: the noise, (C, h, w).
        error: the squared error of the predicted noise by place, (h, w).
        estimate: the clean estimate decoded, uint8 (3, H, W).
        noise_error, clean_error: mean squared errors of the noise and of the clean estimate.
    """

    point: TimePoint
    network_time: float
    noisy: Tensor
    added: Tensor
    predicted: Tensor
    error: Tensor
    estimate: Tensor
    noise_error: float
    clean_error: float


@dataclass(frozen=True)
class ErrorLevels:
    """Mean squared errors of the predicted noise and of the clean estimate by t, with the prompt and with the empty one."""

    points: list[TimePoint]
    noise: list[float]
    noise_unprompted: list[float]
    clean: list[float]
    clean_unprompted: list[float]


def predict(generation: Generation, x_t: Tensor, t: float, prompt: str) -> Estimate:
    """Return the network's estimates for noisy latents (B, C, h, w) at t, without guidance."""
    at = torch.full((len(x_t),), t, dtype=torch.float64)
    return generation.denoiser()(x_t, at, generation.condition([prompt] * len(x_t)))


@torch.no_grad()
def view_network(generation: Generation, picture: OwnPicture, *, seed: int) -> list[NetworkView]:
    """Return what the network sees and says at `VIEWED` points of time, with the noise of the forward process."""
    schedule, x = generation.schedule, picture.latents
    noise, found = draw_noise(seed, LATENT_NOISE, x), []
    for t in choose_times(schedule, VIEWED + 1)[1:]:
        at = torch.tensor([t], dtype=torch.float64)
        x_t = schedule.corrupt(x, noise, at)
        estimate = predict(generation, x_t, t, picture.prompt)
        shown = to_display_bytes(generation.decode(torch.cat([x_t, estimate.clean]))).cpu()
        error = (estimate.noise - noise)[0].square().mean(0).cpu()
        found.append(
            NetworkView(
                TimePoint.of(schedule, t),
                float(schedule.network_time(at)),
                shown[0],
                noise[0].cpu(),
                estimate.noise[0].cpu(),
                error,
                shown[1],
                float(error.mean()),
                float((estimate.clean - x).square().mean()),
            )
        )
    return found


@torch.no_grad()
def measure_errors(generation: Generation, picture: OwnPicture, *, seed: int) -> ErrorLevels:
    """Return the errors at `LEVELS` noise levels, each the mean over `DRAWN` draws of noise."""
    schedule, x = generation.schedule, picture.latents
    noise = torch.cat([draw_noise(seed, LATENT_NOISE, x, number=number) for number in range(DRAWN)])
    times, errors = choose_times(schedule, LEVELS + 1)[1:], []
    for t in times:
        x_t = schedule.corrupt(x.expand_as(noise), noise, torch.full((DRAWN,), t, dtype=torch.float64))
        pairs = [predict(generation, x_t, t, prompt) for prompt in (picture.prompt, "")]
        errors.append(
            [float((one.noise - noise).square().mean()) for one in pairs]
            + [float((one.clean - x).square().mean()) for one in pairs]
        )
    return ErrorLevels([TimePoint.of(schedule, t) for t in times], *map(list, zip(*errors, strict=True)))
