"""The vocabulary that the rooms share: batches, conditioning, and the protocols by which they know each other.

Shape letters: B examples, C channels, H W height and width (of the tensor at hand), L tokens, D width of an embedding.
Images are float in [-1, 1]. Raw latents are what an autoencoder returns; (model) latents are shifted and scaled to a
standard deviation near 1. The parts of a batch are not frozen, because Lightning moves them to a device in place.
"""

from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch
from torch import Tensor

from ldm_train.util.safe_json import Json


class Pinnable:
    """A dataclass of tensors that a data loader can move to page-locked memory, so that copies to a GPU are asynchronous."""

    def pin_memory(self) -> Self:
        for name, part in vars(self).items():
            if isinstance(part, Tensor | Pinnable):
                setattr(self, name, part.pin_memory())
        return self


@dataclass
class Moments(Pinnable):
    """A diagonal Gaussian over raw latents, as the cache stores it.

    Args:
        mean: (B, C, H, W).
        log_variance: (B, C, H, W); None if the autoencoder has no posterior.
    """

    mean: Tensor
    log_variance: Tensor | None

    def draw(self, noise: Tensor) -> Tensor:
        """Return the posterior sample mean + deviation * noise, (B, C, H, W), in the noise's dtype.

        Without a posterior it is the mean.
        """
        mean = self.mean.to(noise.dtype)
        return mean if self.log_variance is None else mean + (0.5 * self.log_variance.to(noise.dtype)).exp() * noise


@dataclass
class Conditioning:
    """What a network is conditioned on, apart from the noisy latents and t; each part may be absent.

    Args:
        tokens: embeddings for cross-attention, (B, L, D).
        mask: True for tokens to attend to, (B, L).
        vector: added to the time embedding, (B, D).
        maps: concatenated to the input, (B, C, H, W).
    """

    tokens: Tensor | None = None
    mask: Tensor | None = None
    vector: Tensor | None = None
    maps: Tensor | None = None

    def cat(self, other: Self) -> Self:
        """Return both concatenated along the batch; both must have the same parts."""
        parts = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return type(self)(**{name: None if a is None else torch.cat([a, b]) for name, (a, b) in parts.items()})

    def where(self, keep: Tensor, other: Self) -> Self:
        """Return this conditioning for the examples with `keep` (B,) True, and `other` for the rest."""
        parts = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        choose = {
            name: None if a is None else torch.where(keep.view(-1, *[1] * (a.ndim - 1)), a, b)
            for name, (a, b) in parts.items()
        }
        return type(self)(**choose)


@dataclass
class CaptionBatch(Pinnable):
    """Captions as a conditioner takes them: token ids (B, L), and embeddings (B, L, D) if the text encoder is frozen."""

    tokens: Tensor
    embeddings: Tensor | None = None


@dataclass
class LatentBatch(Pinnable):
    """All that the training of a noise predictor sees.

    Args:
        positions: each example's place in the run, or its index among the held-out examples, (B,) int64.
        moments: moments of the raw latents.
        captions: token ids, with embeddings if the text encoder is frozen.
    """

    positions: Tensor
    moments: Moments
    captions: CaptionBatch


@dataclass
class ImageBatch(Pinnable):
    """All that the training of an autoencoder sees.

    Args:
        positions: each example's place in the run, (B,) int64.
        images: (B, 3, H, W) in [-1, 1].
    """

    positions: Tensor
    images: Tensor


class Network(Protocol):
    """Maps noisy latents (B, C, H, W), timesteps (B,) and conditioning to an output like the latents.

    Timesteps are float32 in about 0 to 1000, the schedule's `network_time`.
    """

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...


class Autoencoder(Protocol):
    """Maps images to raw latents and back.

    Attributes:
        channels: C of the latents.
        factor: pixels of an image per position of the latents, along each side.
        shift, scale: the numbers that make model latents of raw ones.
        identity: everything that the raw latents of an image depend on, in plain values.
    """

    channels: int
    factor: int
    shift: float
    scale: float

    @property
    def identity(self) -> dict[str, Json]: ...

    def encode(self, images: Tensor) -> Moments: ...

    def decode(self, raw_latents: Tensor) -> Tensor: ...

    def to(self, device: torch.device, /) -> Self: ...


class Conditioner(Protocol):
    """Maps captions to conditioning.

    `tokenize` returns ids (B, L). A trained conditioner learns together with the network; a frozen one embeds each caption
    once. `count` returns how many tokens each caption has before it is cut to `capacity`.

    Attributes:
        context_width: width D of its tokens; None if it has none.
        vector_width: width D of its vector; None if it has none.
        capacity: the largest number of tokens of a caption.
        trained: whether it learns together with the network.
        identity: everything that the cached part of a caption depends on, in plain values.
        computation: everything that the conditioning depends on, in plain values.
    """

    context_width: int | None
    vector_width: int | None
    capacity: int
    trained: bool

    @property
    def identity(self) -> dict[str, Json]: ...

    @property
    def computation(self) -> dict[str, Json]: ...

    def tokenize(self, captions: list[str]) -> Tensor: ...

    def count(self, captions: list[str]) -> list[int]: ...

    def __call__(self, captions: CaptionBatch) -> Conditioning: ...


class FeatureExtractor(Protocol):
    """Maps images (B, 3, H, W) in [-1, 1], of any size, to features (B, size) float32.

    `name` is part of the name of every metric of these features, because metrics of different extractors do not compare.
    """

    name: str
    size: int

    def __call__(self, images: Tensor, /) -> Tensor: ...

    def to(self, device: torch.device, /) -> Self: ...
