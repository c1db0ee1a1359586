"""A further picture of the same scene as a condition: depth, edges, a segmentation, a sketch."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ldm_train.conditioners.condition import Condition, drop, look_up_map, scale_map
from ldm_train.types import ConditionedExamples, Conditioning, Given


class Map(Condition):
    """A map that is concatenated to the network's input (Rombach et al. 2022, arXiv 2112.10752, section 4.3.2).

    With `control` it is not: a ControlNet gets it at the pictures' size, and does nothing where there is none.

    Args:
        channels: C of the map.
        nearest: whether values are never mixed where it is scaled, as labels must not be.
        encoded: whether it is encoded by the autoencoder as a picture is; else it is scaled to the latents' size.
        scaled: whether the latents of an encoded map are scaled as those of pictures are; False: as the autoencoder gives
            them, as in InstructPix2Pix (Brooks et al. 2022, arXiv 2211.09800).
        normalized: whether each map is stretched to [-1, 1], as that of Stable Diffusion 2's network for depth.
        control: whether it is for a ControlNet.
        latent_channels: C of the autoencoder's latents.
        latent_factor: pixels of a picture for each position of the latents.
        to_model: makes model latents of the raw ones that are stored of an encoded map.
        to_unscaled: the same without their scale.

    Raises:
        ValueError: channels below 1, a map that is encoded and has neither 1 nor 3, or settings that exclude each other.
    """

    takes_map = True

    def __init__(
        self,
        *,
        name: str,
        channels: int = 1,
        nearest: bool = False,
        encoded: bool = False,
        scaled: bool = True,
        normalized: bool = False,
        dropout: float = 0.05,
        control: bool = False,
        latent_channels: int = 4,
        latent_factor: int = 8,
        to_model: Callable[[Tensor], Tensor] | None = None,
        to_unscaled: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(name, dropout=dropout)
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels={channels!r} of the condition {name} must be a whole number of at least 1")
        if encoded and channels not in (1, 3):
            raise ValueError(f"channels={channels} of the condition {name}: an autoencoder takes grey (1) or colours (3)")
        if normalized and (encoded or nearest):
            raise ValueError(f"normalized=true of the condition {name} is for maps of numbers, not encoded and not nearest")
        if not scaled and not encoded:
            raise ValueError(f"scaled=false of the condition {name} is for latents; set encoded=true, or leave it out")
        if control and encoded:
            raise ValueError(f"encoded=true of the condition {name}: a ControlNet takes a map as it is; leave it out")
        self.channels, self.nearest, self.encoded, self.normalized = channels, nearest, encoded, normalized
        self.scaled, self.control, self.latent_factor = scaled, control, latent_factor
        self.to_model = None if not encoded else to_model if scaled else to_unscaled
        self.stored_channels = latent_channels if encoded else channels  # a derived class may make others of them
        self.map_channels = 0 if control else self.stored_channels
        self.identity = {
            "kind": "map",
            "channels": channels,
            "nearest": nearest,
            "encoded": encoded,
            "scaled": scaled,
            "normalized": normalized,
            **({"control": True} if control else {}),
        }

    @property
    def can_lack(self) -> bool:
        return self.control or super().can_lack

    def read(self, examples: ConditionedExamples) -> Callable[[Tensor, Tensor], Given]:
        return partial(look_up_map, examples, self.name)

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> Given:
        sides = self._stored_size(latent_size)
        return Given(torch.zeros(count, self.stored_channels, *sides), torch.zeros(count, dtype=torch.bool))

    def gather(self, rows: Sequence[Given], *, latent_size: tuple[int, int]) -> Given:
        sides = self._stored_size(latent_size)
        return super().gather(
            [Given(scale_map(row.values, sides, nearest=self.nearest), row.kept) for row in rows],
            latent_size=latent_size,
        )

    def _stored_size(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of a stored map, by that of the latents."""
        step = self.latent_factor if self.control else 1
        return latent_size[0] * step, latent_size[1] * step

    def depict(self, values: Tensor, decode: Callable[[Tensor], Tensor]) -> Tensor:
        return decode(values) if self.encoded else values

    def forward(self, values: Tensor, kept: Tensor) -> Conditioning:
        if self.control:
            return Conditioning(control=(values.float() + 1) / 2, controlled=kept)
        maps = values.float() if self.to_model is None else self.to_model(values.float())
        return Conditioning(maps=drop(maps, kept))
