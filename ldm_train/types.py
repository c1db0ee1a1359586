"""The vocabulary that the rooms share: batches, conditioning, and the protocols by which they know each other.

Shapes are written in these letters: B examples, C channels, H W height and width (of the tensor at hand), L tokens,
D width of an embedding. Images are float, in [-1, 1]. Raw latents are what an autoencoder gives; (model) latents are
those shifted and scaled to a deviation near 1. What travels in a batch is not frozen, since Lightning moves it in place.
"""

from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch
from torch import Tensor

from ldm_train.util.safe_json import Json


class Pinned:
    """A dataclass of tensors that a loader can put into page-locked memory, from where it travels to a GPU unattended."""

    def pin_memory(self) -> Self:
        for name, part in vars(self).items():
            if isinstance(part, Tensor | Pinned):
                setattr(self, name, part.pin_memory())
        return self


@dataclass
class Moments(Pinned):
    """A diagonal Gaussian over raw latents, as stored: mean (B, C, H, W); log-variance alike, None where there is none."""

    mean: Tensor
    log_variance: Tensor | None

    def draw(self, noise: Tensor) -> Tensor:
        """The posterior sample mean + deviation * noise, (B, C, H, W), in the noise's type; the mean where there is no
        posterior."""
        mean = self.mean.to(noise.dtype)
        return mean if self.log_variance is None else mean + (0.5 * self.log_variance.to(noise.dtype)).exp() * noise


@dataclass
class Conditioning:
    """What a network is told beside the noisy latents; each part may be absent.

    Args:
        tokens: embeddings for cross-attention, (B, L, D).
        mask: True where a token counts, (B, L).
        vector: added to the time embedding, (B, D).
        maps: concatenated to the input, (B, C, H, W).
    """

    tokens: Tensor | None = None
    mask: Tensor | None = None
    vector: Tensor | None = None
    maps: Tensor | None = None

    def cat(self, other: Self) -> Self:
        """Both along the batch; both must have the same parts."""
        parts = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return type(self)(**{name: None if a is None else torch.cat([a, b]) for name, (a, b) in parts.items()})

    def where(self, keep: Tensor, other: Self) -> Self:
        """This where `keep` (B,) is True, `other` elsewhere."""
        parts = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        choose = {
            name: None if a is None else torch.where(keep.view(-1, *[1] * (a.ndim - 1)), a, b)
            for name, (a, b) in parts.items()
        }
        return type(self)(**choose)


@dataclass
class Captions(Pinned):
    """Captions as a conditioner takes them: token ids (B, L), and their embeddings (B, L, D) by a frozen text encoder."""

    tokens: Tensor
    embeddings: Tensor | None = None


@dataclass
class LatentBatch(Pinned):
    """All that the training of a noise predictor sees.

    Args:
        positions: each example's place in the run, or its index among the held-out examples, (B,) int64.
        moments: raw latents' moments.
        captions: tokens, or the frozen text encoder's embeddings.
    """

    positions: Tensor
    moments: Moments
    captions: Captions


@dataclass
class ImageBatch(Pinned):
    """All that the training of an autoencoder sees: positions (B,) and images (B, 3, H, W) in [-1, 1]."""

    positions: Tensor
    images: Tensor


class Network(Protocol):
    """Anything that maps noisy latents (B, C, H, W), timesteps (B,) and conditioning to an output like the latents."""

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...


class Autoencoder(Protocol):
    """Images to raw latents and back; `shift` and `scale` make model latents of raw ones.

    `identity` holds everything that decides the raw latents of an image, in plain values.
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
    """Captions to conditioning: of tokens `context_width` wide, of a vector `vector_width` wide, None for none.

    `tokenize` gives ids (B, L); a `trained` one learns with the network, a frozen one `embed`s each caption once. `count`
    says how many tokens a caption has of its own, before it is cut to `capacity`. In plain values `identity` holds
    everything that decides what a cache stores of a caption, and `computation` everything that decides the conditioning.
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

    def __call__(self, captions: Captions) -> Conditioning: ...


class FeatureExtractor(Protocol):
    """Pictures to features: images (B, 3, H, W) in [-1, 1], of any size, to float32 (B, size).

    `name` is in the name of every metric of these features, which compare with no other extractor's.
    """

    name: str
    size: int

    def __call__(self, images: Tensor, /) -> Tensor: ...

    def to(self, device: torch.device, /) -> Self: ...
