"""The network of diffusers' `AutoencoderKL` as all published ones have it, since importing diffusers takes seconds.

It has the same names of weights, draws the same first weights from the same generator, and computes the same bits. Other
kinds of blocks and activations are left to diffusers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6  # of the norms


@dataclass(frozen=True)
class KLConfig:
    """The arguments of an `AutoencoderKL`, under its names and with its defaults."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: Sequence[str] = ("DownEncoderBlock2D",)
    up_block_types: Sequence[str] = ("UpDecoderBlock2D",)
    block_out_channels: Sequence[int] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | Sequence[int] = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: Sequence[float] | None = None
    latents_std: Sequence[float] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True


def read_config(config: Mapping[str, object]) -> KLConfig | None:
    """Return the config of an `AutoencoderKL`, or None if its network is left to diffusers."""
    named = {name: value for name, value in config.items() if not name.startswith("_")}
    if not named.keys() <= {field.name for field in fields(KLConfig)}:
        return None
    found = KLConfig(**named)  # type: ignore[arg-type]
    kinds = {"DownEncoderBlock2D": found.down_block_types, "UpDecoderBlock2D": found.up_block_types}
    plain = all([*types] == [kind] * len(found.block_out_channels) for kind, types in kinds.items())
    return found if plain and found.act_fn == "silu" else None


class ResidualBlock(nn.Module):
    """Two convolutions, each after a norm and SiLU, added to the input, which is projected if the width changes."""

    def __init__(self, width: int, out_width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width, eps=EPS)
        self.conv1 = nn.Conv2d(width, out_width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_width, eps=EPS)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.conv_shortcut = None if width == out_width else nn.Conv2d(width, out_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        if self.conv_shortcut is not None:
            # In training, strides of gradients that differ from their weights' cost DDP a copy.
            x = self.conv_shortcut(x.contiguous() if self.training else x)
        return x + hidden


class PixelAttention(nn.Module):
    """Self-attention of all pixels with one head, after a norm, added to its input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, eps=EPS)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2).transpose(1, 2)
        pixels = self.group_norm(pixels.transpose(1, 2)).transpose(1, 2)
        q, k, v = (layer(pixels)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        out = self.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])
        attended: Tensor = out.transpose(1, 2).reshape(x.shape) + x
        return attended


class Halving(nn.Module):
    """A convolution with stride 2, which pads after the last row and column only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class Doubling(nn.Module):
    """Every pixel four times, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


class Level(nn.Module):
    """The residual blocks of one resolution, then a change of the resolution under the name `resampler`, if there is one."""

    def __init__(self, width: int, out_width: int, blocks: int, groups: int, resampler: str | None) -> None:
        super().__init__()
        widths = [width, *[out_width] * (blocks - 1)]
        self.resnets = nn.ModuleList(ResidualBlock(before, out_width, groups) for before in widths)
        self._resampler = resampler
        if resampler is not None:
            kind = Halving if resampler == "downsamplers" else Doubling
            self.add_module(resampler, nn.ModuleList([kind(out_width)]))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        if self._resampler is not None:
            x = self.get_submodule(self._resampler)[0](x)  # type: ignore[index]
        return x


class Middle(nn.Module):
    """Two residual blocks at the lowest resolution, with an attention between them if there is one."""

    def __init__(self, width: int, groups: int, *, attention: bool) -> None:
        super().__init__()
        first = ResidualBlock(width, width, groups)
        self.attentions = nn.ModuleList([PixelAttention(width, groups)] if attention else [])
        self.resnets = nn.ModuleList([first, ResidualBlock(width, width, groups)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        x = self.resnets[1](x)
        return x


class Encoder(nn.Module):
    """Images (B, 3, H, W) to the parameters of the posterior (B, 2C, H/factor, W/factor)."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        names = [*["downsamplers"] * (len(widths) - 1), None]
        self.down_blocks = nn.ModuleList(
            Level(before, width, config.layers_per_block, groups, name)
            for before, width, name in zip([widths[0], *widths], widths, names, strict=False)
        )
        self.mid_block = Middle(widths[-1], groups, attention=config.mid_block_add_attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for level in self.down_blocks:
            x = level(x)
        moments: Tensor = self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))
        return moments


class Decoder(nn.Module):
    """Raw latents (B, C, H/factor, W/factor) to images (B, 3, H, W)."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        widths, groups = [*reversed(config.block_out_channels)], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.up_blocks = nn.ModuleList()  # comes first in the order of modules, and last in that of the draws
        self.mid_block = Middle(widths[0], groups, attention=config.mid_block_add_attention)
        names = [*["upsamplers"] * (len(widths) - 1), None]
        for before, width, name in zip([widths[0], *widths], widths, names, strict=False):
            self.up_blocks.append(Level(before, width, config.layers_per_block + 1, groups, name))
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(latents))
        for level in self.up_blocks:
            x = level(x)
        images: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return images


class KLNetwork(nn.Module):
    """An encoder to the posterior's parameters and a decoder, with 1x1 convolutions at the latents if there are any."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        width = config.latent_channels
        self.quant_conv = nn.Conv2d(2 * width, 2 * width, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(width, width, 1) if config.use_post_quant_conv else None

    def register_to_config(self, **values: float) -> None:
        """Replace values of the config, under diffusers' name."""
        self.config = replace(self.config, **values)  # type: ignore[arg-type]

    def to_json_string(self) -> str:
        """Return the content of diffusers' config.json, under its name."""
        names = {"_class_name": "AutoencoderKL", "_diffusers_version": version("diffusers")}
        return json.dumps(asdict(self.config) | names, indent=2, sort_keys=True) + "\n"


def encode_moments(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance (B, C, H/factor, W/factor) of images (B, 3, H, W), by this network or diffusers'."""
    moments = network.encoder(images)  # type: ignore[operator]
    if network.quant_conv is not None:
        moments = network.quant_conv(moments)  # type: ignore[operator]
    mean, log_variance = torch.chunk(moments, 2, dim=1)
    return mean, log_variance.clamp(-30.0, 20.0)


def decode_latents(network: nn.Module, latents: Tensor) -> Tensor:
    """Return images (B, 3, H, W) of raw latents (B, C, H/factor, W/factor), by this network or diffusers'."""
    if network.post_quant_conv is not None:
        latents = network.post_quant_conv(latents)  # type: ignore[operator]
    images: Tensor = network.decoder(latents)  # type: ignore[operator]
    return images
