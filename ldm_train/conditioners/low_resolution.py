"""A smaller copy of the picture as a condition: the network enlarges it."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate, one_hot, pixel_unshuffle

from ldm_train import draws
from ldm_train.conditioners.condition import Condition, drop, look_up_map, scale_map
from ldm_train.conditioners.picture_size import check_width
from ldm_train.networks.embeddings import embed_sinusoidal
from ldm_train.types import ConditionedExamples, Conditioning, Given

FACTORS = (2, 4)
LEVELS = 1000  # of noise, as of Stable Diffusion's x4 upscaler


class LowResolution(Condition):
    """A picture of 1 / factor of the size, concatenated to the network's input, with noise on it and its level as a vector.

    Noise on the small picture makes a network robust against what small pictures have and reduced ones do not (Ho et al.
    2021, arXiv 2106.15282, section 4.2). For training, each step draws a level from 0 to `max_noise_level` of the levels
    0 to 999 of a noise schedule, whose beta is between the given ones, linear in its root, as in Stable Diffusion's x4
    upscaler. The small picture is brought to the latents' size: enlarged by bicubic interpolation, or if it is larger than
    they are, its pixels are folded into channels. Values are (B, 4, h, w): the picture, then its level everywhere.

    Args:
        factor: 2 or 4, how many times larger the drawn picture is, along each side.
        max_noise_level: the largest level that is trained.
        noise_level: in drawing, if no other one is asked for.
        width: features of the level, even; None for one input for each level, as Stable Diffusion's x4 upscaler has it.
        beta_start, beta_end: of the noise schedule.
        latent_factor: pixels of the drawn picture for each position of the latents, along each side.

    Raises:
        ValueError: another factor, a level that is not trained, or an odd width.
    """

    takes_picture = True

    def __init__(
        self,
        *,
        name: str = "low_resolution",
        factor: int = 4,
        max_noise_level: int = 350,
        noise_level: int = 0,
        width: int | None = 64,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        dropout: float = 0.0,
        latent_factor: int = 4,
    ) -> None:
        super().__init__(name, dropout=dropout)
        if factor not in FACTORS:
            raise ValueError(f"factor={factor!r} of the condition {name} must be 2 or 4")
        if max(factor, latent_factor) % min(factor, latent_factor):
            raise ValueError(
                f"factor={factor} of the condition {name} does not fit an autoencoder with factor {latent_factor}; one must "
                "divide the other"
            )
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                f"beta_start={beta_start:g} and beta_end={beta_end:g} of the condition {name} must be rising, in (0, 1)"
            )
        self.factor, self.latent_factor = factor, latent_factor
        self.beta_start, self.beta_end = beta_start, beta_end
        self.max_noise_level = check_level(max_noise_level, LEVELS - 1, f"max_noise_level of the condition {name}")
        self.noise_level = check_level(noise_level, max_noise_level, f"noise_level of the condition {name}")
        self.width = width
        self.vector_width = LEVELS if width is None else check_width(width, name)
        self.fold = max(1, latent_factor // factor)
        self.map_channels = 3 * self.fold**2
        self.unit = factor
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, LEVELS, dtype=torch.float32).square()
        self.signal = (1 - betas).cumprod(0)  # alpha^2 of each level; in single precision, as diffusers computes it
        self.identity = {
            "kind": "low_resolution",
            "factor": factor,
            "max_noise_level": max_noise_level,
            "width": width,
            "beta_start": beta_start,
            "beta_end": beta_end,
        }

    def read(self, examples: ConditionedExamples) -> Callable[[Tensor, Tensor], Given]:
        """Return a function to the small pictures of examples without noise, (B, 4, h, w)."""
        return partial(_read, examples, self.name)

    def draw(self, given: Given, positions: Tensor, *, seed: int) -> Given:
        """Return small pictures (B, 4, h, w) with noise of a random level."""
        uniform = draws.uniform(seed, f"condition {self.name} level", positions)
        levels = (uniform * (self.max_noise_level + 1)).long()
        pictures = given.values[:, :3]
        noise = draws.normal(seed, f"condition {self.name} noise", positions, pictures.shape[1:])
        return Given(self.add_noise(pictures, noise, levels), given.kept)

    def add_noise(self, pictures: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Return small pictures and noise (B, 3, h, w), mixed by levels (B,), and their levels, (B, 4, h, w)."""
        squared = self.signal[levels].view(-1, 1, 1, 1)
        mixed = squared.sqrt() * pictures.float() + (1 - squared).sqrt() * noise
        return torch.cat([mixed, levels.float().view(-1, 1, 1, 1).expand(-1, 1, *mixed.shape[2:])], 1)

    def small_size(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) of the small picture of latents."""
        height, width = (side * self.latent_factor // self.factor for side in latent_size)
        return height, width

    def gather(self, rows: Sequence[Given], *, latent_size: tuple[int, int]) -> Given:
        size = self.small_size(latent_size)
        return super().gather([Given(scale_map(row.values, size), row.kept) for row in rows], latent_size=latent_size)

    def prepare(self, given: Given, examples: Tensor) -> Given:
        """Return small pictures (B, 4, h, w) with noise of the level that drawing has, unless another one is asked for."""
        pictures = given.values[:, :3].float()
        noise = draws.normal(0, f"condition {self.name} noise", examples, pictures.shape[1:])
        return Given(self.add_noise(pictures, noise, torch.full_like(examples, self.noise_level)), given.kept)

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> Given:
        return Given(torch.zeros(count, 4, *self.small_size(latent_size)), torch.zeros(count, dtype=torch.bool))

    def depict(self, values: Tensor, decode: Callable[[Tensor], Tensor]) -> Tensor:
        return values[:, :3]

    def forward(self, values: Tensor, kept: Tensor) -> Conditioning:
        pictures, levels = values[:, :3].float(), values[:, 3, 0, 0].round()
        if self.fold > 1:
            maps = pixel_unshuffle(pictures, self.fold)
        elif self.factor > self.latent_factor:
            maps = interpolate(pictures, scale_factor=self.factor // self.latent_factor, mode="bicubic", align_corners=False)
        else:
            maps = pictures
        return Conditioning(vector=drop(self.embed_levels(levels), kept), maps=drop(maps, kept))

    def embed_levels(self, levels: Tensor) -> Tensor:
        """Return the vectors of noise levels (B,), (B, D)."""
        return one_hot(levels.long(), LEVELS).float() if self.width is None else embed_sinusoidal(levels, self.width)


def check_level(level: int, largest: int, what: str) -> int:
    """Return a noise level.

    Raises:
        ValueError: it is no whole number from 0 to the largest.
    """
    if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= largest:
        raise ValueError(f"{what} must be a whole number from 0 to {largest}, and is {level!r}")
    return level


def _read(examples: ConditionedExamples, name: str, chosen: Tensor, views: Tensor) -> Given:
    given = look_up_map(examples, name, chosen, views)
    pictures = given.values.float()
    return Given(torch.cat([pictures, torch.zeros_like(pictures[:, :1])], 1), given.kept)
