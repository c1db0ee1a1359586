"""Prompts to pictures, on one page: captions to conditioning, noise through a sampler, latents to images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.guidance import ClassifierFreeGuidance
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedule import NoiseSchedule
from ldm_train.encoders.latents import Scaling
from ldm_train.samplers.base import Sampler, StepCallback
from ldm_train.types import Autoencoder, Captions, Conditioner, Network


@dataclass(frozen=True)
class Generation:
    """All that it takes to draw pictures.

    Args:
        size: side of the pictures, pixels.
        device: where the network and the conditioner are.
    """

    network: Network
    conditioner: Conditioner
    autoencoder: Autoencoder
    schedule: NoiseSchedule
    prediction: Prediction
    size: int
    device: torch.device

    @torch.no_grad()
    def __call__(
        self,
        prompts: list[str],
        *,
        sampler: Sampler,
        steps: int,
        guidance: float,
        seed: int,
        first: int = 0,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """One picture for each prompt, (B, 3, size, size) in [-1, 1].

        Args:
            guidance: scale; 1 is none.
            seed: with the picture's number, counted from `first`, it fixes the noise: batches do not matter.
            callback: called after each step with its number, the latents x_s and the estimate.
        """
        side = self.size // self.autoencoder.factor
        shape = (self.autoencoder.channels, side, side)
        numbers = torch.arange(first, first + len(prompts))

        def draw(step: int) -> Tensor:
            return draws.normal(seed, f"step {step}", numbers, shape).to(self.device)

        conditioning, null = (self.conditioner(Captions(self.tokenize(texts))) for texts in (prompts, [""] * len(prompts)))
        denoiser = ClassifierFreeGuidance(Denoiser(self.network, self.schedule, self.prediction), null, guidance)
        noise = draws.normal(seed, "initial noise", numbers, shape).to(self.device)
        return self.decode(sampler(denoiser, noise, conditioning, steps=steps, draw=draw, callback=callback))

    def tokenize(self, texts: list[str]) -> Tensor:
        return self.conditioner.tokenize(texts).to(self.device)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, H, W) to images (B, 3, H*factor, W*factor) in [-1, 1]."""
        return self.autoencoder.decode(Scaling.of(self.autoencoder).to_raw(latents)).clamp(-1, 1)
