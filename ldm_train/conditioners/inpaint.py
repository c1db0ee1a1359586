"""A picture with a hole as a condition: the network fills what a mask covers."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.conditioners.condition import Condition, drop, look_up_map
from ldm_train.types import ConditionedExamples, Conditioning, Given

MOST_MASKS = 64  # each is stored with each picture


class Inpaint(Condition):
    """A mask and the latents of the picture that it leaves, concatenated to the network's input.

    This is how Stable Diffusion's inpainting network has them (Rombach et al. 2022, arXiv 2112.10752, section 4.5): the
    mask, 1 where to draw, at the latents' size, then the latents of the picture with grey in the hole. For training, each
    picture is stored with a number of random masks (brush strokes, boxes, halves, everything); each step draws one of them.

    Args:
        masks: stored for each picture.
        latent_channels: C of the autoencoder's latents.
        to_model: makes model latents of the raw ones that are stored.

    Raises:
        ValueError: fewer masks than one, or more than are stored.
    """

    takes_mask = True

    def __init__(
        self,
        *,
        name: str = "inpaint",
        masks: int = 4,
        dropout: float = 0.0,
        latent_channels: int = 4,
        to_model: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(name, dropout=dropout)
        if isinstance(masks, bool) or not isinstance(masks, int) or not 1 <= masks <= MOST_MASKS:
            raise ValueError(f"masks={masks!r} of the condition {name} must be a whole number from 1 to {MOST_MASKS}")
        self.masks = masks
        self.map_channels = 1 + latent_channels
        self.to_model = to_model
        self.identity = {"kind": "inpaint"}

    def read(self, examples: ConditionedExamples) -> Callable[[Tensor, Tensor], Given]:
        return partial(look_up_map, examples, self.name)

    def draw(self, given: Given, positions: Tensor, *, seed: int) -> Given:
        """Return the mask and the latents (B, 1 + C, h, w) of one of the masks (B, masks * (1 + C), h, w)."""
        chosen = (draws.uniform(seed, f"condition {self.name} mask", positions) * self.masks).long()
        return Given(self._choose(given.values, chosen), given.kept)

    def gather(self, rows: Sequence[Given], *, latent_size: tuple[int, int]) -> Given:
        """Return the first mask of each example; of an example with latents of another (height, width), no hole."""
        first = [Given(row.values[:, : self.map_channels], row.kept) for row in rows]
        none = partial(self.absent, size=latent_size, latent_size=latent_size)
        fitting = [row if tuple(row.values.shape[2:]) == latent_size else none(len(row.kept)) for row in first]
        return super().gather(fitting, latent_size=latent_size)

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> Given:
        return Given(torch.zeros(count, self.map_channels, *latent_size), torch.zeros(count, dtype=torch.bool))

    def forward(self, values: Tensor, kept: Tensor) -> Conditioning:
        mask, latents = values[:, :1].float(), values[:, 1:].float()
        latents = latents if self.to_model is None else self.to_model(latents)
        return Conditioning(maps=drop(torch.cat([mask, latents], 1), kept))

    def _choose(self, values: Tensor, chosen: Tensor) -> Tensor:
        every = values.unflatten(1, (self.masks, self.map_channels))
        return every[torch.arange(len(every)), chosen]
