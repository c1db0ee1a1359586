"""A picture as a condition, through the vision tower of an open_clip model: pictures like it are drawn."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ldm_train.conditioners.condition import Condition, drop, look_up_map
from ldm_train.types import ConditionedExamples, Conditioning, Given
from ldm_train.weights.fingerprint import name_weights

if TYPE_CHECKING:
    from ldm_train.conditioners.vision_tower import VisionTower


class Picture(Condition):
    """A picture's embedding by a frozen vision tower, projected to tokens or to a vector by a trained layer.

    As in unCLIP (Ramesh et al. 2022, arXiv 2204.06125, section 2.1) and IP-Adapter (Ye et al. 2023, arXiv 2308.06721,
    section 3.2). The cache has the embedding, so that training does not need the tower.

    Args:
        own: whether it is the picture that is trained on, of which variations are drawn then; else another one, which
            `source.maps` has under the condition's name.
        model: open_clip's name of the architecture.
        weights: open_clip's name of the weights, which are downloaded, or a file.
        tokens: what the embedding is projected to, next to the text encoder's tokens; 0 for a vector.
        width: D of the vector.
        context_width: D of the text encoder's tokens, None if it has none.

    Raises:
        ValueError: tokens where the text encoder has none, numbers that are too small, or a model or weights that are not
            there.
    """

    takes_map = True

    def __init__(
        self,
        *,
        name: str = "picture",
        own: bool = True,
        model: str = "ViT-B-32",
        weights: str = "laion2b_s34b_b79k",
        tokens: int = 4,
        width: int = 256,
        dropout: float = 0.1,
        context_width: int | None = None,
    ) -> None:
        super().__init__(name, dropout=dropout)
        for setting, value, least in (("tokens", tokens, 0), ("width", width, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{setting}={value!r} of the condition {name} must be a whole number of at least {least}")
        if tokens and context_width is None:
            raise ValueError(
                f"tokens={tokens} of the condition {name} join those of the text encoder, which has none; set tokens: 0 for "
                "a vector"
            )
        from ldm_train.conditioners.vision_tower import (
            check_weights,
            read_embedding_width,
        )  # open_clip takes seconds to import

        self.model, self.weights, self.tokens = model, weights, tokens
        self.embedding_width = read_embedding_width(model)
        check_weights(model, weights)
        self.token_width = context_width or 0 if tokens else 0
        self.vector_width = 0 if tokens else width
        self.project = nn.Linear(self.embedding_width, tokens * self.token_width or width)
        self.identity = {"kind": "picture", "model": model, "weights": name_weights(weights), "tokens": tokens}

    @cached_property
    def _tower(self) -> "list[VisionTower]":
        """The tower, in a list so that it is no part of what is trained and stored."""
        from ldm_train.conditioners.vision_tower import open_vision_tower

        return [open_vision_tower(self.model, self.weights)]

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Return what is known of images (B, 3, H, W) in [-1, 1], as a cache has it, (B, D, 1, 1)."""
        return self._tower[0].to(images.device)(images)[:, :, None, None]

    def read(self, examples: ConditionedExamples) -> Callable[[Tensor, Tensor], Given]:
        return partial(look_up_map, examples, self.name)

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> Given:
        return Given(torch.zeros(count, self.embedding_width, 1, 1), torch.zeros(count, dtype=torch.bool))

    def forward(self, values: Tensor, kept: Tensor) -> Conditioning:
        features = normalize(values.flatten(1).float(), dim=1) * self.embedding_width**0.5
        projected = drop(self.project(features.to(self.project.weight.dtype)), kept)
        if not self.tokens:
            return Conditioning(vector=projected)
        return Conditioning(tokens=projected.unflatten(1, (self.tokens, self.token_width)))
