"""A further picture of the same scene as a condition: depth, edges, a segmentation, a sketch."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ldm_train.conditioners.condition import Condition, drop, look_up_map, scale_map
from ldm_train.types import ConditionedExamples, Conditioning, Given


class Map(Condition):
    """A map that is concatenated to the network's input (Rombach et al. 2022, arXiv 2112.10752, section 4.3.2).

    Args:
        channels: C of the map.
        nearest: whether values are never mixed where it is scaled, as labels must not be.
        encoded: whether it is encoded by the autoencoder as a picture is; else it is scaled to the latents' size.
        latent_channels: C of the autoencoder's latents.
        to_model: makes model latents of the raw ones that are stored of an encoded map.

    Raises:
        ValueError: channels below 1, or a map that is encoded and has neither 1 nor 3.
    """

    takes_map = True

    def __init__(
        self,
        *,
        name: str,
        channels: int = 1,
        nearest: bool = False,
        encoded: bool = False,
        dropout: float = 0.05,
        latent_channels: int = 4,
        to_model: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(name, dropout=dropout)
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels={channels!r} of the condition {name} must be a whole number of at least 1")
        if encoded and channels not in (1, 3):
            raise ValueError(f"channels={channels} of the condition {name}: an autoencoder takes grey (1) or colours (3)")
        self.channels, self.nearest, self.encoded = channels, nearest, encoded
        self.to_model = to_model if encoded else None
        self.stored_channels = latent_channels if encoded else channels  # a derived class may make others of them
        self.map_channels = self.stored_channels
        self.identity = {"kind": "map", "channels": channels, "nearest": nearest, "encoded": encoded}

    def read(self, examples: ConditionedExamples) -> Callable[[Tensor, Tensor], Given]:
        return partial(look_up_map, examples, self.name)

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> Given:
        return Given(torch.zeros(count, self.stored_channels, *latent_size), torch.zeros(count, dtype=torch.bool))

    def gather(self, rows: Sequence[Given], *, latent_size: tuple[int, int]) -> Given:
        return super().gather(
            [Given(scale_map(row.values, latent_size, nearest=self.nearest), row.kept) for row in rows],
            latent_size=latent_size,
        )

    def forward(self, values: Tensor, kept: Tensor) -> Conditioning:
        maps = values.float() if self.to_model is None else self.to_model(values.float())
        return Conditioning(maps=drop(maps, kept))
