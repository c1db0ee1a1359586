"""Film strips: the reverse process of a picture, and the forward process of an example."""

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.pictures.images import to_display_bytes
from ldm_train.diffusion.denoiser import Estimate
from ldm_train.generation import Generation
from ldm_train.training.callbacks.picture_grids import make_grid_picture
from ldm_train.training.module import NoisePredictorTraining

FRAMES = 8


class ReverseFilm:
    """A sampler's callback that keeps frames of the first picture: x_s above the clean estimate."""

    def __init__(self, generation: Generation, steps: int) -> None:
        self.generation = generation
        self.frames = choose_frames(steps)
        self.columns: list[Tensor] = []

    def __call__(self, number: int, x_s: Tensor, estimate: Estimate) -> None:
        if number in self.frames:
            self.columns.append(self.generation.decode(torch.cat([x_s[:1], estimate.clean[:1]])))

    @property
    def strip(self) -> Tensor:
        """The frames from noise to picture, (3, H, W) uint8."""
        return make_grid_picture(to_display_bytes(torch.stack(self.columns, dim=1).flatten(0, 1)), columns=len(self.columns))


def choose_frames(steps: int) -> set[int]:
    """Return the numbers of the steps that a film strip shows: up to `FRAMES`, including the first and the last."""
    return {round((steps - 1) * i / (FRAMES - 1)) for i in range(FRAMES)}


@torch.no_grad()
def make_forward_strip(module: NoisePredictorTraining, data: CachedLatents, generation: Generation, *, seed: int) -> Tensor:
    """Return the first training example at evenly spaced t, from clean to noise, (3, H, W) uint8."""
    schedule = generation.schedule
    latents = load_model_latents(data, int(torch.cat(data.train)[0]), generation)
    shares = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    t = module.timesteps.t_at_quantiles(shares, schedule) * (shares > 0)
    noise = draws.normal(seed, "forward strip", torch.zeros(1, dtype=torch.long), latents.shape[1:]).to(latents)
    noisy = schedule.corrupt(latents.expand(FRAMES, -1, -1, -1), noise.expand(FRAMES, -1, -1, -1), t)
    return make_grid_picture(to_display_bytes(generation.decode(noisy)), columns=FRAMES)


def load_model_latents(data: CachedLatents, example: int, generation: Generation) -> Tensor:
    """Return an example's first view as model latents (1, C, H, W), the posterior's mean, on the network's device."""
    first = data.readable(torch.tensor([example]))
    mean = data.latents.moments(first, torch.zeros_like(first)).mean
    raw = mean.to(generation.device, torch.promote_types(mean.dtype, torch.float32))
    return Scaling.of(generation.autoencoder).to_model(raw)
