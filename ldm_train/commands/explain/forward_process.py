"""The forward process of one picture: noise is added, in latent space and in pixel space."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.commands.explain.own_picture import OwnPicture
from ldm_train.data.pictures.images import to_display_bytes
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.generation import Generation
from ldm_train.samplers.base import TimePoint

FRAMES = 11  # points of time, from clean to noise
LATENT_NOISE, PIXEL_NOISE = "explained noise", "explained noise of pixels"  # streams of draws


@dataclass(frozen=True)
class NoisyPicture:
    """The picture at one point of the forward process.

    Args:
        latents: x_t, (C, h, w).
        decoded: the picture that the autoencoder makes of x_t, uint8 (3, H, W).
        pixels: the picture itself with as much noise, uint8 (3, H, W).
    """

    point: TimePoint
    latents: Tensor
    decoded: Tensor
    pixels: Tensor


def choose_times(schedule: NoiseSchedule, count: int) -> list[float]:
    """Return `count` rising t from 0 to the schedule's end, evenly spaced as training draws them uniformly."""
    inner = schedule.quantile(torch.arange(1, count - 1, dtype=torch.float64) / (count - 1)).double()
    return [0.0, *inner.tolist(), float(schedule.end)]


def draw_noise(seed: int, stream: str, like: Tensor, *, number: int = 0) -> Tensor:
    """Return the noise (1, …) that is added to a picture, like (1, …)."""
    return draws.normal(seed, stream, torch.tensor([number]), like.shape[1:]).to(like)


@torch.no_grad()
def corrupt_picture(generation: Generation, picture: OwnPicture, *, seed: int) -> list[NoisyPicture]:
    """Return the picture at `FRAMES` points of time, from clean to noise, each with the same noise."""
    schedule = generation.schedule
    noise = draw_noise(seed, LATENT_NOISE, picture.latents)
    pixel_noise = draw_noise(seed, PIXEL_NOISE, picture.image)
    found = []
    for t in choose_times(schedule, FRAMES):
        at = torch.tensor([t], dtype=torch.float64)
        latents, pixels = schedule.corrupt(picture.latents, noise, at), schedule.corrupt(picture.image, pixel_noise, at)
        shown = to_display_bytes(torch.cat([generation.decode(latents), pixels.clamp(-1, 1)])).cpu()
        found.append(NoisyPicture(TimePoint.of(schedule, t), latents[0].cpu(), shown[0], shown[1]))
    return found


def list_targets(generation: Generation, picture: OwnPicture, forward: Sequence[NoisyPicture], *, seed: int) -> list[Tensor]:
    """Return what a network is taught to output at each point of the forward process, (C, h, w).

    Raises:
        ValueError: the prediction is undefined at the schedule's end.
    """
    noise, denoiser = draw_noise(seed, LATENT_NOISE, picture.latents), generation.denoiser()
    times = [torch.tensor([step.point.t], dtype=torch.float64) for step in forward]
    return [denoiser.target(picture.latents, noise, t)[0].cpu() for t in times]
