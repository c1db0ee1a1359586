"""Prompts to pictures, on one page: captions to conditioning, noise through a sampler, latents to images."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.conditioners.condition import Conditions
from ldm_train.conditioners.interpolation import interpolate_conditioning, slerp
from ldm_train.diffusion.denoiser import AnyDenoiser, Denoiser
from ldm_train.diffusion.divergence import describe_divergence
from ldm_train.diffusion.guidance import FixedConditioning, Guidance
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.diffusion.tiling import TiledNetwork, decode_tiles
from ldm_train.samplers.base import InitialPicture, Sampler, StepCallback, TimePoint
from ldm_train.samplers.spacings import Spacing
from ldm_train.types import Autoencoder, CaptionBatch, Conditioner, Conditioning, Given, Network
from ldm_train.util.own_tokens import tokenize

NOTHING: Mapping[str, Given] = MappingProxyType({})


def scales_conditions(guidance: Guidance) -> bool:
    """Return whether a guidance has a scale of its own for conditions other than the caption."""
    return getattr(guidance, "keywords", {}).get("condition_scale") is not None


@dataclass(frozen=True)
class SamplingSettings:
    """How pictures are sampled.

    Args:
        steps, spacing: number of sampler steps, and the points in time at which they are taken.
        seed: with a picture's number it fixes the picture's noise, whatever batch the picture is in.
        negative_prompt: the prompt that guidance moves away from; the empty caption unless given.
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
        device: the device of the network and the conditioner.
        weak: a weaker model on the same schedule, for autoguidance.
        conditions: what else the network is conditioned on.
        tile: side of the overlapping tiles in which a larger picture is computed, pixels; None for the whole at once.
    """

    network: Network
    conditioner: Conditioner
    autoencoder: Autoencoder
    schedule: NoiseSchedule
    prediction: Prediction
    size: int | tuple[int, int]
    device: torch.device
    weak: "Generation | None" = None
    conditions: Conditions = field(default_factory=Conditions)
    tile: int | None = None

    @torch.no_grad()
    def __call__(
        self,
        prompts: list[str],
        recipe: SamplingSettings,
        *,
        first: int = 0,
        numbers: Tensor | None = None,
        picture: InitialPicture | None = None,
        callback: StepCallback | None = None,
        given: Mapping[str, Given] = NOTHING,
    ) -> Tensor:
        """Draw one picture for each prompt, (B, 3, H, W) in [-1, 1].

        Args:
            first: number of the first picture; the others are numbered from there.
            numbers: the number of each picture (B,), which overrides `first`.
            picture: a picture to start from instead of pure noise.
            callback: called after each step with its number (from 0), the latents x_s and the estimate.
            given: what the pictures are conditioned on besides the prompts, by the conditions' names, a row for each.

        Raises:
            ValueError: `given` lacks a condition that the network cannot do without, or has one that it does not know.
        """
        numbers = torch.arange(first, first + len(prompts)) if numbers is None else numbers
        return self._draw(
            lambda model: model.condition(prompts, model.conditions.known(given)),
            lambda stream: draws.normal(recipe.seed, stream, numbers, self.latent_shape),
            recipe,
            picture,
            callback,
            given,
        )

    @torch.no_grad()
    def interpolate(
        self,
        prompts: tuple[str, str],
        recipe: SamplingSettings,
        weights: Tensor,
        *,
        seeds: tuple[int, int] | None = None,
        number: int = 0,
        blend: Literal["slerp", "lerp"] = "slerp",
        picture: InitialPicture | None = None,
        callback: StepCallback | None = None,
        given: Mapping[str, Given] = NOTHING,
    ) -> Tensor:
        """Draw pictures on the way from one prompt to another, (B, 3, H, W) in [-1, 1].

        Args:
            weights: the position of each picture, from 0 (the first prompt) to 1 (the second), (B,).
            seeds: seeds of the noise at either end; the recipe's unless given.
            number: the number that all the pictures have under both seeds.
            blend: interpolation of the prompts' embeddings; noise is always interpolated by `slerp`, which keeps its
                deviation.
            picture: a picture to start from instead of pure noise.
            callback: called after each step of all pictures together.
            given: what the pictures are conditioned on besides the prompts, the same all the way.
        """

        def condition(model: Generation) -> Conditioning:
            first, second = (model.condition_on_texts([prompt] * len(weights)) for prompt in prompts)
            between = interpolate_conditioning(first, second, weights.to(model.device), blend=blend)
            return model.join_given(between, model.conditions.known(given), len(weights))

        def noise(stream: str) -> Tensor:
            first, second = (
                draws.normal(seed, stream, torch.full((len(weights),), number), self.latent_shape)
                for seed in seeds or (recipe.seed, recipe.seed)
            )
            return slerp(first.flatten(1), second.flatten(1), weights).view_as(first)

        return self._draw(condition, noise, recipe, picture, callback, given)

    def _draw(
        self,
        condition: "Callable[[Generation], Conditioning]",
        noise: Callable[[str], Tensor],
        recipe: SamplingSettings,
        picture: InitialPicture | None = None,
        callback: StepCallback | None = None,
        given: Mapping[str, Given] = NOTHING,
    ) -> Tensor:
        """Return images (B, 3, H, W) in [-1, 1].

        Args:
            condition: returns the conditioning that a model (this one or `weak`) computes of the prompts.
            noise: returns the noise (B, C, H, W) of a named stream, on the CPU.
        """
        initial = noise("initial noise").to(self.device)
        negative = [recipe.negative_prompt] * len(initial)
        weaker = None if self.weak is None else replace(self.weak, size=self.size, tile=self.tile)
        weak = None if weaker is None else FixedConditioning(weaker.denoiser(), condition(weaker))
        latents = recipe.sampler(
            self._guide(recipe, weak, negative, given),
            initial,
            condition(self),
            steps=recipe.steps,
            spacing=recipe.spacing,
            generator=lambda step: noise(f"step {step}").to(self.device),
            picture=picture,
            callback=callback,
        )
        return self.decode(latents)

    def _guide(
        self, recipe: SamplingSettings, weak: AnyDenoiser | None, negative: list[str], given: Mapping[str, Given]
    ) -> AnyDenoiser:
        """Return the guided denoiser; one that scales conditions apart also gets what goes without them."""
        null = self.condition(negative, given)
        if not scales_conditions(recipe.guidance):
            return recipe.guidance(self.denoiser(), null, weak)
        unconditional = self.condition(negative, self.conditions.without(self.complete(given, len(negative))))
        return recipe.guidance(self.denoiser(), null, weak, unconditional=unconditional)  # type: ignore[call-arg]

    def given_of(self, read: Callable[[Tensor, Tensor], dict[str, Given]], examples: Tensor) -> dict[str, Given]:
        """Return what is known for the conditions of examples (B,) of the data, at the size of the pictures to draw.

        Args:
            read: returns it for examples of one shape and their views.
        """
        return self.conditions.gather(read, examples, latent_size=self.latent_shape[1:])

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the pictures, pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def unit(self) -> int:
        """What the sides of pictures must be multiples of, pixels."""
        return math.lcm(self.autoencoder.factor * getattr(self.network, "divisor", 1), self.conditions.unit)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a picture's latents."""
        height, width = self.sides
        return self.autoencoder.channels, height // self.autoencoder.factor, width // self.autoencoder.factor

    def check(self, prompts: list[str], recipe: SamplingSettings) -> None:
        """Raise what drawing these prompts would raise, without drawing.

        Raises:
            ValueError: the spacing, sampler or guidance does not fit the schedule, or the conditioner does not know a
                caption.
        """
        recipe.sampler.check(TimePoint.of(self.schedule, recipe.spacing(self.schedule, recipe.steps)[0]))
        weak = None if self.weak is None else self.weak.denoiser()
        recipe.guidance(self.denoiser(), Conditioning(), weak)
        if scales_conditions(recipe.guidance):
            self.conditions.without({})
        tokenize(self.conditioner, [*prompts, recipe.negative_prompt])

    def denoiser(self) -> Denoiser:
        """Return the network as a denoiser without guidance."""
        side = self.tile_side
        network = self.network if side is None else TiledNetwork(self.network, side=side)
        return Denoiser(network, self.schedule, self.prediction)

    @property
    def tile_side(self) -> int | None:
        """Return the side of a tile in latents; None if the picture is one tile."""
        return None if self.tile is None or self.tile >= max(self.sides) else self.tile // self.autoencoder.factor

    def condition(self, texts: list[str], given: Mapping[str, Given] = NOTHING) -> Conditioning:
        """Return the conditioning of texts and of what else is given, one row each.

        Raises:
            ValueError: `given` lacks a condition that the network cannot do without, or has one that it does not know.
        """
        return self.join_given(self.condition_on_texts(texts), given, len(texts))

    def condition_on_texts(self, texts: list[str]) -> Conditioning:
        """Return the conditioning of texts only, one row each."""
        return self.conditioner(CaptionBatch(tokenize(self.conditioner, texts).to(self.device)))

    def join_given(self, text: Conditioning, given: Mapping[str, Given], count: int) -> Conditioning:
        """Return the conditioning of `count` texts joined with that of what else is given; raises as `condition`."""
        return self.conditions(text, {name: rows.to(self.device) for name, rows in self.complete(given, count).items()})

    def complete(self, given: Mapping[str, Given], count: int) -> dict[str, Given]:
        """Return what is given for `count` pictures, with what is left out.

        Raises:
            ValueError: as `condition`.
        """
        return self.conditions.complete(given, count, size=self.sides, latent_size=self.latent_shape[1:])

    def encode(self, images: Tensor) -> Tensor:
        """Return latents (B, C, H/factor, W/factor) of images (B, 3, H, W) in [-1, 1], the posterior's mean."""
        return Scaling.of(self.autoencoder).to_model(self.autoencoder.encode(images.to(self.device)).mean)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, H*factor, W*factor) in [-1, 1] of latents (B, C, H, W).

        The autoencoder computes in its own dtype even if the network computes under autocast, because half precision is too
        coarse for it. An image becomes all NaN if its latents or any of its pixels are not finite: clipping would hide
        infinity.
        """
        with torch.autocast(self.device.type, enabled=False):
            raw = Scaling.of(self.autoencoder).to_raw(latents)
            images = decode_tiles(self.autoencoder.decode, raw, side=self.tile_side, scale=self.autoencoder.factor)
        finite = latents.flatten(1).isfinite().all(1) & images.flatten(1).isfinite().all(1)
        return images.clamp(-1, 1).masked_fill(~finite.view(-1, 1, 1, 1), torch.nan)

    def require_finite(self, images: Tensor, prompts: Sequence[str], numbers: Sequence[int], *, seed: int) -> Tensor:
        """Return drawn images (B, 3, H, W), or raise if one of them is not finite.

        Args:
            prompts, numbers: the prompt and the number of each image.

        Raises:
            ValueError: an image is not finite; the message has its prompt, number and seed, and the likely cause.
        """
        models = [self] if self.weak is None else [self, self.weak]
        parts = [part for one in models for part in (one.network, one.conditioner, one.autoencoder)]
        for image, prompt, number in zip(images, prompts, numbers, strict=True):
            if not image.isfinite().all():
                raise ValueError(
                    f"the picture of {prompt!r} (number {number}, seed {seed}) contains NaN or infinity and was not "
                    f"written: {describe_divergence(parts)}"
                )
        return images
