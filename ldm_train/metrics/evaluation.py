"""What a run is measured by beyond losses and distances between sets: its evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldm_train.metrics.numbers import Numbers, Resampling
from ldm_train.metrics.pixel_distance import find_nearest
from ldm_train.types import Autoencoder


@dataclass(frozen=True)
class Comparison:
    """Drawn pictures and the true pictures of their captions.

    Args:
        drawn, truth: (B, 3, H, W) in [-1, 1], of one size.
        captions: of each picture, B.
        fields: what the source says of each true picture, B.
        held_out: whether training never sees the true pictures.
    """

    drawn: Tensor
    truth: Tensor
    captions: Sequence[str]
    fields: Sequence[Mapping[str, str]]
    held_out: bool


class PictureMetric(Protocol):
    """Compare each drawn picture with the true pictures."""

    def __call__(self, comparison: Comparison) -> dict[str, Tensor]:
        """Return one value per drawn picture by name, (B,) bool or float; none if the metric does not apply."""


class Retrieval:
    """Compute whether the nearest of all true pictures, pixel by pixel, has the caption that was drawn.

    Applies if there is more than one caption.
    """

    def __call__(self, comparison: Comparison) -> dict[str, Tensor]:
        captions = comparison.captions
        if len(set(captions)) < 2:
            return {}
        return {"retrieval_at_1": match_captions(comparison.drawn, captions, comparison.truth, captions)}


def match_captions(drawn: Tensor, prompts: Sequence[str], truth: Tensor, captions: Sequence[str]) -> Tensor:
    """Return whether the true picture that is nearest in pixels to each drawn one has its prompt as its caption, (M,) bool.

    Args:
        drawn, truth: (M, ...) and (N, ...), of one size.
    """
    nearest = find_nearest(drawn, truth).tolist()
    return torch.tensor([captions[index] == prompt for index, prompt in zip(nearest, prompts, strict=True)])


@dataclass(frozen=True)
class DrawnPictures:
    """The pictures drawn from the prompts of an evaluation.

    Args:
        pictures: (B, 3, H, W) in [-1, 1], in the order of the prompts.
        autoencoder: the model's autoencoder on `device`, or None if it is unknown.
    """

    pictures: Tensor
    autoencoder: Autoencoder | None
    device: torch.device


class Evaluation(Protocol):
    """Name the prompts that `ldm-train evaluate` draws, and measure the pictures; it is not called if there are none."""

    @property
    def metrics(self) -> Sequence[PictureMetric]:
        """Further metrics of the pictures that a run draws while it trains."""

    def prompts(self) -> list[str]:
        """Return the prompts to draw, in order."""

    def __call__(self, drawn: DrawnPictures, resampling: Resampling) -> Numbers:
        """Return numbers about the pictures of the prompts."""

    def overview(self, drawn: DrawnPictures) -> Tensor | None:
        """Return one image of the pictures, (3, H, W) uint8, to be written next to the numbers; None for no image."""


class HeldOut:
    """Measure nothing beyond what every model gets: losses of held-out examples, and comparisons of sets of pictures."""

    metrics: Sequence[PictureMetric] = ()

    def prompts(self) -> list[str]:
        return []

    def __call__(self, drawn: DrawnPictures, resampling: Resampling) -> Numbers:
        return Numbers()

    def overview(self, drawn: DrawnPictures) -> Tensor | None:
        return None
