"""Film strips: the reverse diffusion of a picture, and the forward process of an example."""

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.pictures.images import to_display_bytes
from ldm_train.diffusion.denoiser import Estimate
from ldm_train.generation import Generation
from ldm_train.training.callbacks.picture_grids import grid
from ldm_train.training.module import NoisePredictorTraining

FRAMES = 8


class Reverse:
    """Called after each of a sampler's steps: keeps frames of the first picture, x_s above the clean estimate."""

    def __init__(self, generation: Generation, steps: int) -> None:
        self.generation = generation
        self.shown = frames(steps)
        self.columns: list[Tensor] = []

    def __call__(self, number: int, x_s: Tensor, estimate: Estimate) -> None:
        if number in self.shown:
            self.columns.append(self.generation.decode(torch.cat([x_s[:1], estimate.clean[:1]])))

    @property
    def strip(self) -> Tensor:
        """From noise to picture, (3, H, W) uint8."""
        return grid(to_display_bytes(torch.stack(self.columns, dim=1).flatten(0, 1)), columns=len(self.columns))


def frames(steps: int) -> set[int]:
    """The numbers of the steps that a film strip shows: up to `FRAMES`, the first and the last one always."""
    return {round((steps - 1) * i / (FRAMES - 1)) for i in range(FRAMES)}


@torch.no_grad()
def forward_strip(module: NoisePredictorTraining, data: CachedLatents, generation: Generation, *, seed: int) -> Tensor:
    """The first training example at evenly spaced t, from clean to noise, (3, H, W) uint8."""
    schedule = generation.schedule
    latents = latents_of(data, int(torch.cat(data.train)[0]), generation)
    shares = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    t = module.timesteps.at(shares, schedule) * (shares > 0)
    noise = draws.normal(seed, "forward strip", torch.zeros(1, dtype=torch.long), latents.shape[1:]).to(latents)
    noisy = schedule.corrupt(latents.expand(FRAMES, -1, -1, -1), noise.expand(FRAMES, -1, -1, -1), t)
    return grid(to_display_bytes(generation.decode(noisy)), columns=FRAMES)


def latents_of(data: CachedLatents, example: int, generation: Generation) -> Tensor:
    """An example's first view, the posterior's mean, as model latents (1, C, H, W) where the network is."""
    first = data.readable(torch.tensor([example]))
    mean = data.latents.moments(first, torch.zeros_like(first)).mean
    raw = mean.to(generation.device, torch.promote_types(mean.dtype, torch.float32))
    return Scaling.of(generation.autoencoder).to_model(raw)
