"""Prompts to pictures, on one page: captions to conditioning, noise through a sampler, latents to images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.guidance import Conditioned, Guidance
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.samplers.base import Picture, Point, Sampler, StepCallback
from ldm_train.samplers.spacings import Spacing
from ldm_train.types import Autoencoder, Captions, Conditioner, Conditioning, Network

LARGE = 1e4  # no weight of a network that draws is


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
        numbers: Tensor | None = None,
        picture: Picture | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """One picture for each prompt, (B, 3, H, W) in [-1, 1].

        Args:
            first: the number of the first picture; the others' follow it.
            numbers: each one's own instead, (B,).
            picture: what to start from instead of noise alone.
            callback: called after each step with its number, the latents x_s and the estimate.
        """
        numbers = torch.arange(first, first + len(prompts)) if numbers is None else numbers
        return self._draw(
            lambda model: model.condition(prompts),
            lambda stream: draws.normal(recipe.seed, stream, numbers, self.latent_shape),
            recipe,
            picture,
            callback,
        )

    @torch.no_grad()
    def between(
        self,
        prompts: tuple[str, str],
        recipe: Recipe,
        weights: Tensor,
        *,
        seeds: tuple[int, int] | None = None,
        number: int = 0,
        blend: Literal["slerp", "lerp"] = "slerp",
    ) -> Tensor:
        """Pictures on the way from one prompt to another, (B, 3, H, W) in [-1, 1].

        Args:
            weights: how far, from 0 (the first prompt's own picture) to 1, (B,).
            seeds: whose noise is drawn from at either end; the recipe's unless given.
            number: of all pictures, in both seeds.
            blend: how the prompts' embeddings are; noise is always by `slerp`, which keeps its deviation.
        """

        def condition(model: Generation) -> Conditioning:
            first, second = (model.condition([prompt] * len(weights)) for prompt in prompts)
            return mixed(first, second, weights.to(model.device), blend=blend)

        def noise(stream: str) -> Tensor:
            first, second = (
                draws.normal(seed, stream, torch.full((len(weights),), number), self.latent_shape)
                for seed in seeds or (recipe.seed, recipe.seed)
            )
            return slerp(first.flatten(1), second.flatten(1), weights).view_as(first)

        return self._draw(condition, noise, recipe)

    def _draw(
        self,
        condition: "Callable[[Generation], Conditioning]",
        noise: Callable[[str], Tensor],
        recipe: Recipe,
        picture: Picture | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Images of what `condition` tells a model, from the noise of a stream, (B, C, H, W) on the CPU."""
        initial = noise("initial noise").to(self.device)
        null = self.condition([recipe.negative_prompt] * len(initial))
        weak = None if self.weak is None else Conditioned(self.weak.denoiser(), condition(self.weak))
        latents = recipe.sampler(
            recipe.guidance(self.denoiser(), null, weak),
            initial,
            condition(self),
            steps=recipe.steps,
            spacing=recipe.spacing,
            generator=lambda step: noise(f"step {step}").to(self.device),
            picture=picture,
            callback=callback,
        )
        return self.decode(latents)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        height, width = self.sides
        return self.autoencoder.channels, height // self.autoencoder.factor, width // self.autoencoder.factor

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
        What is not finite, in latents or image, makes its whole image NaN: clipping would hide infinity.
        """
        with torch.autocast(self.device.type, enabled=False):
            images = self.autoencoder.decode(Scaling.of(self.autoencoder).to_raw(latents))
        finite = latents.flatten(1).isfinite().all(1) & images.flatten(1).isfinite().all(1)
        return images.clamp(-1, 1).masked_fill(~finite.view(-1, 1, 1, 1), torch.nan)

    def refuse_nonfinite(self, images: Tensor, prompts: Sequence[str], numbers: Sequence[int], *, seed: int) -> Tensor:
        """Return images (B, 3, H, W) that were drawn; raise if one of them is not finite.

        Args:
            prompts, numbers: of each.

        Raises:
            ValueError: naming the prompt, the number, the seed, and what to look at.
        """
        for image, prompt, number in zip(images, prompts, numbers, strict=True):
            if not image.isfinite().all():
                raise ValueError(
                    f"the picture of {prompt!r} (number {number}, seed {seed}) contains NaN or infinity, and was not "
                    f"written: {self._suspect()}"
                )
        return images

    def _suspect(self) -> str:
        """Return what to look at when pictures are not finite."""
        models = [self] if self.weak is None else [self, self.weak]
        for module in (part for model in models for part in (model.network, model.conditioner, model.autoencoder)):
            for name, weight in module.named_parameters() if isinstance(module, torch.nn.Module) else ():
                largest = weight.detach().abs().max().item() if weight.numel() else 0.0
                if not largest < LARGE:  # NaN is not
                    return (
                        f"{type(module).__name__}'s weight {name} has values up to {largest:g}; the run diverged, or a "
                        "factor in adapters=… is too large"
                    )
        return (
            "its weights are of usual size; lower guidance.scale and the factors in adapters=…, try weights=raw or more "
            "steps, and compute in float32"
        )


def mixed(
    first: Conditioning, second: Conditioning, weights: Tensor, *, blend: Literal["slerp", "lerp"] = "slerp"
) -> Conditioning:
    """Conditioning between two of the same parts, at weights (B,) from 0 to 1; a token that counts in either one counts."""

    def part(a: Tensor | None, b: Tensor | None, mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor | None:
        return None if a is None or b is None else mix(a, b, weights.to(a.dtype))

    embeddings = {"slerp": slerp, "lerp": lerp}[blend]
    return Conditioning(
        tokens=part(first.tokens, second.tokens, embeddings),
        mask=None if first.mask is None or second.mask is None else first.mask | second.mask,
        vector=part(first.vector, second.vector, embeddings),
        maps=part(first.maps, second.maps, lerp),
    )


def lerp(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """On the straight line between tensors (B, ...), exactly their own at weights (B,) of 0 and 1."""
    return torch.lerp(first, second, weights.view(-1, *[1] * (first.ndim - 1)))


def slerp(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """On the arc between vectors (B, ..., D), at weights (B,) (Shoemake 1985, "Animating rotation with quaternion curves").

    Between independent noise it is noise of the same deviation. Nearly parallel and opposite vectors have a line instead.
    """
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=-1).unsqueeze(-1)
    angle = cosine.clamp(-1, 1).acos()
    share = weights.view(-1, *[1] * (first.ndim - 1))
    arc = (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / torch.sin(angle)
    return torch.where(cosine.abs() > 0.9995, lerp(first, second, weights), arc)
