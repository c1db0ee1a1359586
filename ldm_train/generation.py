"""Prompts to pictures, on one page: captions to conditioning, noise through a sampler, latents to images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.guidance import Conditioned, Guidance
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedule import NoiseSchedule
from ldm_train.encoders.latents import Scaling
from ldm_train.samplers.base import Picture, Point, Sampler, StepCallback
from ldm_train.samplers.spacings import Spacing
from ldm_train.types import Autoencoder, Captions, Conditioner, Conditioning, Network


@dataclass(frozen=True)
class Recipe:
    """How pictures are drawn.

    Args:
        steps, spacing: how many, and where in time.
        seed: with a picture's number it fixes the noise: batches do not matter.
        negative_prompt: what guidance leads away from; the empty caption unless given.
    """

    sampler: Sampler
    steps: int
    spacing: Spacing
    guidance: Guidance
    seed: int
    negative_prompt: str = ""


@dataclass(frozen=True)
class Generation:
    """All that it takes to draw pictures.

    Args:
        size: side of the pictures, or (height, width), pixels.
        device: where the network and the conditioner are.
        weak: a weaker model on the same schedule, for autoguidance.
    """

    network: Network
    conditioner: Conditioner
    autoencoder: Autoencoder
    schedule: NoiseSchedule
    prediction: Prediction
    size: int | tuple[int, int]
    device: torch.device
    weak: "Generation | None" = None

    @torch.no_grad()
    def __call__(
        self,
        prompts: list[str],
        recipe: Recipe,
        *,
        first: int = 0,
        picture: Picture | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """One picture for each prompt, (B, 3, H, W) in [-1, 1].

        Args:
            first: the number of the first picture.
            picture: what to start from instead of noise alone.
            callback: called after each step with its number, the latents x_s and the estimate.
        """
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        shape = (self.autoencoder.channels, height // self.autoencoder.factor, width // self.autoencoder.factor)
        numbers = torch.arange(first, first + len(prompts))

        def draw(stream: str) -> Tensor:
            return draws.normal(recipe.seed, stream, numbers, shape).to(self.device)

        conditioning, null = (self.condition(texts) for texts in (prompts, [recipe.negative_prompt] * len(prompts)))
        weak = None if self.weak is None else Conditioned(self.weak.denoiser(), self.weak.condition(prompts))
        latents = recipe.sampler(
            recipe.guidance(self.denoiser(), null, weak),
            draw("initial noise"),
            conditioning,
            steps=recipe.steps,
            spacing=recipe.spacing,
            generator=lambda step: draw(f"step {step}"),
            picture=picture,
            callback=callback,
        )
        return self.decode(latents)

    def check(self, prompts: list[str], recipe: Recipe) -> None:
        """Refuse what drawing these would refuse, without drawing.

        Raises:
            ValueError: points in time, a sampler or guidance that do not go with the schedule, or captions unknown.
        """
        recipe.sampler.check(Point.of(self.schedule, recipe.spacing(self.schedule, recipe.steps)[0]))
        recipe.guidance(self.denoiser(), Conditioning(), None if self.weak is None else self.weak.denoiser())
        self.conditioner.tokenize([*prompts, recipe.negative_prompt])

    def denoiser(self) -> Denoiser:
        return Denoiser(self.network, self.schedule, self.prediction)

    def condition(self, texts: list[str]) -> Conditioning:
        return self.conditioner(Captions(self.conditioner.tokenize(texts).to(self.device)))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents (B, C, H/factor, W/factor), the posterior's mean."""
        return Scaling.of(self.autoencoder).to_model(self.autoencoder.encode(images.to(self.device)).mean)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, H, W) to images (B, 3, H*factor, W*factor) in [-1, 1].

        In the autoencoder's own precision, also where the network computes under autocast: half is too coarse for it.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self.autoencoder.decode(Scaling.of(self.autoencoder).to_raw(latents)).clamp(-1, 1)
