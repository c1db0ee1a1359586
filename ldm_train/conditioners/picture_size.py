"""The original size of a picture, its crop, and the size of what is trained, as a condition."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ldm_train.conditioners.condition import Condition, drop
from ldm_train.networks.embeddings import embed_sinusoidal
from ldm_train.types import ConditionedExamples, Conditioning, Given

NUMBERS = 6


class PictureSize(Condition):
    """Original size, top left corner of the crop, and target size, each (height, width) in pixels, as a vector.

    Small originals and cropped pictures can then be trained on without teaching the network to draw blurred or cropped
    ones (Podell et al. 2023, arXiv 2307.01952, section 2.2). Pictures are drawn as uncropped ones of their own size.

    Args:
        width: features of each of the six numbers, even.
    """

    def __init__(self, *, name: str = "size", width: int = 64, dropout: float = 0.0) -> None:
        super().__init__(name, dropout=dropout)
        self.width = check_width(width, name)
        self.vector_width = NUMBERS * width
        self.identity = {"kind": "picture_size", "width": width}

    def read(self, examples: ConditionedExamples) -> Callable[[Tensor, Tensor], Given]:
        return partial(_read, examples)

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> Given:
        return Given(torch.tensor([[*size, 0, 0, *size]] * count).view(count, NUMBERS), torch.ones(count, dtype=torch.bool))

    def forward(self, values: Tensor, kept: Tensor) -> Conditioning:
        features = embed_sinusoidal(values.flatten(), self.width).view(len(values), -1)
        return Conditioning(vector=drop(features, kept))


def check_width(width: int, name: str) -> int:
    """Return the number of features of a number.

    Raises:
        ValueError: it is not even, or below 2.
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 2 or width % 2:
        raise ValueError(f"width={width!r} of the condition {name} must be an even whole number of at least 2")
    return width


def _read(examples: ConditionedExamples, chosen: Tensor, views: Tensor) -> Given:
    size, shape = examples.index.size[chosen].long(), examples.shapes[chosen].long()
    _, resized_width, top, left, mirrored = examples.index.views[chosen, views].long().unbind(1)
    left = torch.where(mirrored.bool(), resized_width - left - shape[:, 1], left)
    values = torch.cat([size, torch.stack([top, left], 1), shape], 1)
    return Given(values, torch.ones(len(chosen), dtype=torch.bool))
