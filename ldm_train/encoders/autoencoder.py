"""Autoencoders behind one small interface: diffusers' published ones, the shipped one, and the identity for pixel space."""

from pathlib import Path
from typing import Protocol, Self, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ldm_train.encoders.fingerprint import SHIPPED
from ldm_train.types import Moments


class _DiffusersConfig(Protocol):
    """What an `AutoencoderKL` says of itself."""

    latent_channels: int
    block_out_channels: list[int]
    scaling_factor: float
    shift_factor: float | None


class KLAutoencoder(nn.Module):
    """A diffusers `AutoencoderKL` (Rombach et al. 2022, arXiv 2112.10752, section 3.1) as raw moments and images.

    Args:
        model: the network, with `scaling_factor` (and `shift_factor`) in its config: latents = (raw - shift) * scale.
    """

    def __init__(self, model: AutoencoderKL) -> None:
        super().__init__()
        self.model = model
        config = cast(_DiffusersConfig, model.config)
        self.channels = config.latent_channels
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.scale = float(config.scaling_factor)
        self.shift = float(config.shift_factor or 0.0)

    def encode(self, images: Tensor) -> Moments:
        """Images (B, 3, H, W) to raw moments (B, C, H/factor, W/factor)."""
        posterior = self.model.encode(images).latent_dist
        return Moments(posterior.mean, posterior.logvar)

    def decode(self, raw_latents: Tensor) -> Tensor:
        """Raw latents (B, C, H, W) to images (B, 3, H*factor, W*factor)."""
        return self.model.decode(raw_latents).sample

    def save(self, folder: Path, *, shift: float, scale: float) -> None:
        """Write diffusers' layout: `config.json` with this shift and scale, and the weights as safetensors."""
        self.model.register_to_config(scaling_factor=scale, shift_factor=shift)
        self.model.save_pretrained(folder)


class IdentityAutoencoder(nn.Module):
    """Pixel space as latents: for trials without an autoencoder, and for networks that work on pictures directly."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 3
        self.factor = 1
        self.scale = 1.0
        self.shift = 0.0

    def encode(self, images: Tensor) -> Moments:
        return Moments(images, None)

    def decode(self, raw_latents: Tensor) -> Tensor:
        return raw_latents


def pretrained(
    weights: str, *, subfolder: str | None = None, scale: float | None = None, shift: float | None = None
) -> KLAutoencoder:
    """A trained autoencoder.

    Args:
        weights: "openmoji" (shipped), a folder in diffusers' layout, or a name on the Hugging Face hub.
        subfolder: where in it the autoencoder lies ("vae" for a whole pipeline).
        scale, shift: instead of those in its config.

    Raises:
        ValueError: nothing can be loaded from there.
    """
    folder = SHIPPED / weights if (SHIPPED / weights).is_dir() else Path(weights)
    try:
        model = AutoencoderKL.from_pretrained(
            str(folder) if folder.is_dir() else weights, subfolder=subfolder, use_safetensors=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError) as error:
        shipped = ", ".join(sorted(p.name for p in SHIPPED.glob("*/")))
        raise ValueError(
            f"autoencoder.weights={weights} is neither shipped ({shipped}), nor a folder in diffusers' layout, "
            f"nor to be had from the hub: {str(error).splitlines()[0]}"
        ) from error
    given = {"scaling_factor": scale, "shift_factor": shift}
    model.register_to_config(**{name: value for name, value in given.items() if value is not None})
    return KLAutoencoder(model.requires_grad_(False)).eval()


class NewKLAutoencoder(KLAutoencoder):
    """An untrained `AutoencoderKL`, made so that it trains fast: every residual block starts as the identity.

    Args:
        channels: width of each level, from the picture's resolution down; n levels reduce the side by 2^(n-1).
        latent_channels: C of the latents.
        blocks: residual blocks of each level of the encoder (the decoder has one more).
        groups: of the group normalisations; must divide every width.
        attention: one self-attention at the lowest resolution.
    """

    def __init__(
        self, channels: list[int], *, latent_channels: int = 4, blocks: int = 1, groups: int = 8, attention: bool = False
    ) -> None:
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=blocks,
            latent_channels=latent_channels,
            norm_num_groups=groups,
            mid_block_add_attention=attention,
            scaling_factor=1.0,
        )
        for name, module in model.named_modules():
            if name.endswith("conv2") and isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        super().__init__(model)

    def initialise(self, seed: int) -> Self:
        """Draw the weights anew from a seed of their own, with the layers' default distributions."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.any():
                    module.reset_parameters()
        return self
