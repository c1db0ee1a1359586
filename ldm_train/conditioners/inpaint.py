"""A picture with a hole as a condition: the network fills what a mask covers."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.conditioners.condition import Condition, drop, join_values, scale_map
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
        """Return a function to the first mask of each example with the latents that it leaves, (B, 1 + C, h, w)."""
        return partial(_read_masks, partial(examples.maps, self.name))

    def read_step(
        self, read: Callable[[Tensor, Tensor], Given], examples: Tensor, views: Tensor, positions: Tensor, *, seed: int
    ) -> Given:
        """Return one of the masks of each example with the latents that it leaves, (B, 1 + C, h, w)."""
        chosen = (draws.uniform(seed, f"condition {self.name} mask", positions) * self.masks).long()
        return read(examples, views, chosen)  # type: ignore[call-arg]

    def gather(self, rows: Sequence[Given], *, latent_size: tuple[int, int]) -> Given:
        """Return the masks of single examples together; those of another (height, width) are scaled with their latents."""
        scaled = []
        for row in rows:
            mask, latents = row.values[:, :1], row.values[:, 1:]
            parts = [scale_map(mask, latent_size, nearest=True), scale_map(latents, latent_size)]
            scaled.append(Given(join_values(parts, 1), row.kept))
        return super().gather(scaled, latent_size=latent_size)

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> Given:
        return Given(torch.zeros(count, self.map_channels, *latent_size), torch.zeros(count, dtype=torch.bool))

    def depict(self, values: Tensor, decode: Callable[[Tensor], Tensor]) -> Tensor:
        return decode(values[:, 1:])

    def forward(self, values: Tensor, kept: Tensor) -> Conditioning:
        mask, latents = values[:, :1].float(), values[:, 1:].float()
        latents = latents if self.to_model is None else self.to_model(latents)
        return Conditioning(maps=drop(torch.cat([mask, latents], 1), kept))


def _read_masks(
    maps: Callable[[Tensor, Tensor, Tensor], Tensor], examples: Tensor, views: Tensor, masks: Tensor | None = None
) -> Given:
    """Return what `maps` has of these masks (B,), else of the first one, of views (B,) of examples (B,)."""
    chosen = torch.zeros_like(examples) if masks is None else masks
    return Given(maps(examples, views, chosen), torch.ones(len(examples), dtype=torch.bool))
