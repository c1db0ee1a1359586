"""The vocabulary that the rooms share: batches, conditioning, and the protocols by which they know each other.

Shape letters: B examples, C channels, H W height and width (of the tensor at hand), L tokens, D width of an embedding.
Images are float in [-1, 1]. Raw latents are what an autoencoder returns; (model) latents are shifted and scaled to a
standard deviation near 1. The parts of a batch are not frozen, because Lightning moves them to a device in place.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from ldm_train.util.safe_json import Json
from ldm_train.util.step_noise import StepNoise


class Pinnable:
    """A dataclass of tensors that a data loader can move to page-locked memory, so that copies to a GPU are asynchronous."""

    def pin_memory(self) -> Self:
        for name, part in vars(self).items():
            if isinstance(part, Tensor | Pinnable | StepNoise):
                setattr(self, name, part.pin_memory())
            elif isinstance(part, dict):
                setattr(self, name, {key: value.pin_memory() for key, value in part.items()})
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
        """Return mean + deviation * noise, without a posterior the mean, (B, C, H, W), in the noise's dtype."""
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
        control: a map in [0, 1] for a ControlNet, at the pictures' size, (B, C, H * factor, W * factor).
        controlled: True for examples that have such a map, (B,); given together with `control`.
    """

    tokens: Tensor | None = None
    mask: Tensor | None = None
    vector: Tensor | None = None
    maps: Tensor | None = None
    control: Tensor | None = None
    controlled: Tensor | None = None

    def cast(self, dtype: torch.dtype) -> Self:
        """Return it with its floating-point tensors in another dtype."""
        floats = {name: one.to(dtype) for name, one in vars(self).items() if one is not None and one.is_floating_point()}
        return replace(self, **floats)

    def cat(self, other: Self) -> Self:
        """Return both concatenated along the batch; both must have the same parts."""
        parts = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return type(self)(**{name: None if a is None else torch.cat([a, b]) for name, (a, b) in parts.items()})

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Return what several conditions give together: tokens along L, vectors along D, maps along C.

        All get the dtype of the first tensor. Tokens of parts without a mask are attended to.
        """
        names = ("tokens", "vector", "maps", "control")
        first = next((one for part in parts for name in names if (one := getattr(part, name)) is not None), None)
        kind = {} if first is None else {"dtype": first.dtype, "device": first.device}

        def joined(name: str) -> Tensor | None:
            found = [value.to(**kind) for part in parts if (value := getattr(part, name)) is not None]
            return torch.cat(found, dim=1) if found else None

        attended = [
            part.tokens.new_ones(part.tokens.shape[:2], dtype=torch.bool) if part.mask is None else part.mask
            for part in parts
            if part.tokens is not None
        ]
        mask = torch.cat(attended, dim=1) if any(part.mask is not None for part in parts) else None
        controlled = next((part.controlled for part in parts if part.controlled is not None), None)
        return cls(mask=mask, controlled=controlled, **{name: joined(name) for name in names})


class Given(Pinnable):
    """What is known for a condition of the examples of a batch.

    It is no dataclass: Lightning rounds what is in those to trainer.precision=bf16-true, in which the year 1990 is 1992.

    Args:
        values: as the condition reads them of the data, (B, ...).
        kept: False for examples that are drawn or trained without it, (B,).
    """

    def __init__(self, values: Tensor, kept: Tensor) -> None:
        self.values = values
        self.kept = kept

    def __getitem__(self, rows: slice | Tensor) -> "Given":
        return Given(self.values[rows], self.kept[rows])

    def to(self, device: torch.device) -> "Given":
        """Return it on a device; Lightning calls this too, so a copy to a GPU must not wait for it."""
        on_gpu = device.type == "cuda"
        values = self.values.float() if device.type == "mps" and self.values.is_floating_point() else self.values
        return Given(values.to(device, non_blocking=on_gpu), self.kept.to(device, non_blocking=on_gpu))


@dataclass
class CaptionBatch(Pinnable):
    """Captions as a conditioner takes them: token ids (B, L), and embeddings (B, ...) if the text encoder is frozen."""

    tokens: Tensor
    embeddings: Tensor | None = None


@dataclass
class LatentBatch(Pinnable):
    """All that the training of a noise predictor sees.

    Args:
        positions: each example's place in the run, or its index among the held-out examples, (B,) int64.
        moments: moments of the raw latents.
        captions: token ids, with embeddings if the text encoder is frozen.
        conditions: what is known for each further condition, by its name.
        loss_mask: how much each position counts in the loss, from -1, not at all, to 1, (B, 1, H, W); None for 1.
        loss_weights: by what each example's loss is multiplied, (B,); None for 1.
        noise: of its training step, or being drawn; None if the step draws it.
    """

    positions: Tensor
    moments: Moments
    captions: CaptionBatch
    conditions: dict[str, Given] = field(default_factory=dict)
    loss_mask: Tensor | None = None
    loss_weights: Tensor | None = None
    noise: StepNoise | Future[StepNoise] | None = None


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
        image_channels: only of one for images that are not RGB.
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


class ExampleIndex(Protocol):
    """Of each of N encoded examples: (height, width) of the original (N, 2), and how its V views were cut (N, V, 5):
    resized height, resized width, top, left, mirrored."""

    @property
    def size(self) -> Tensor: ...

    @property
    def views(self) -> Tensor: ...


class ConditionedExamples(Protocol):
    """What conditions may read of N encoded examples."""

    @property
    def index(self) -> ExampleIndex: ...

    @property
    def shapes(self) -> Tensor:
        """(height, width) of each example's views, pixels, (N, 2)."""

    def column(self, name: str) -> Iterator[str | None]:
        """Yield one field of the metadata of every example, None if it does not have it."""

    def maps(self, name: str, examples: Tensor, views: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return a map (B, C, H, W) of views (B,) of examples (B,), all of one bucket; of random masks, these (B,)."""

    def name(self, example: int) -> str:
        """Return an example's name in its source."""


class ReadCondition(Protocol):
    """A condition as the batches know it: its name, the share of the examples that lack it, and how it is read.

    `read` returns a function from examples (B,) and their views (B,) to what is known of them. `read_step` calls it for a
    training step, and returns that with what is drawn of it by the examples' positions (B,).
    """

    name: str
    dropout: float

    def read(self, examples: ConditionedExamples) -> Callable[[Tensor, Tensor], Given]: ...

    def read_step(
        self, read: Callable[[Tensor, Tensor], Given], examples: Tensor, views: Tensor, positions: Tensor, *, seed: int
    ) -> Given: ...


class FeatureExtractor(Protocol):
    """Maps images (B, 3, H, W) in [-1, 1], of any size, to features (B, size) float32.

    `name` is part of the name of every metric of these features, because metrics of different extractors do not compare.
    """

    name: str
    size: int

    def __call__(self, images: Tensor, /) -> Tensor: ...

    def to(self, device: torch.device, /) -> Self: ...
