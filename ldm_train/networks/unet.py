"""The U-Net: levels of falling resolution and back up, with shortcuts between, conditioned on t and the conditioning."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_train.networks.attention import SpatialTransformer
from ldm_train.networks.blocks import Downsample, ResidualBlock, Upsample, group_norm, zero_parameters
from ldm_train.networks.embeddings import TimeEmbedding
from ldm_train.networks.encoder_half import UNetBlock, run_encoder
from ldm_train.types import Conditioning


def check_settings(
    channels: Sequence[int],
    attention: Sequence[bool],
    *,
    middle_attention: bool,
    only_cross_attention: Sequence[bool] | None,
    context_width: int | None,
    heads: int | None,
    head_size: int,
    counts: Mapping[str, int],
) -> None:
    """Raise a ValueError if widths, flags, heads or counts do not make a network."""
    for name, flags in (("attention", attention), ("only_cross_attention", only_cross_attention)):
        if flags is not None and len(flags) != len(channels):
            raise ValueError(
                f"network.{name} has {len(flags)} flags for {len(channels)} levels of network.channels; set one a level"
            )
    if any(only_cross_attention or []) and context_width is None:
        raise ValueError("network.only_cross_attention needs tokens to attend to, but there are none; set it to null")
    if not channels or min(channels) < 2 or channels[0] % 2:
        raise ValueError(
            f"network.channels={list(channels)} must be widths of at least 2, the first one even (for the sines and cosines "
            "of the time embedding)"
        )
    counted, divisor = ("head_size", head_size) if heads is None else ("heads", heads)
    for setting, value in {**counts, counted: divisor}.items():
        if value < 1:
            raise ValueError(f"network.{setting}={value} must be at least 1")
    for width, attends in zip([*channels, channels[-1]], [*attention, middle_attention], strict=True):
        if attends and width % divisor:
            raise ValueError(f"network.{counted}={divisor} does not divide the width {width}; choose a divisor of it")


def check_added_maps(map_channels: int, in_channels: int, *, add_maps: bool) -> None:
    """Raise a ValueError if maps would be added to the output and have too few channels for it."""
    if add_maps and map_channels < in_channels:
        raise ValueError(
            f"network.add_maps=true needs maps with the latents' {in_channels} channels at least, not {map_channels}"
        )


def check_conditioning(
    conditioning: Conditioning, *, context_width: int | None, vector_width: int | None, map_channels: int
) -> None:
    """Raise a ValueError if the conditioning lacks a part that the network was made for, or has one that it would ignore."""
    tokens, vector, maps = conditioning.tokens, conditioning.vector, conditioning.maps
    if conditioning.mask is not None and tokens is None:
        raise ValueError("the conditioning has a mask but no tokens; pass both or neither")
    for setting, expected, part, given in (
        ("context_width", context_width, "tokens", None if tokens is None else tokens.shape[-1]),
        ("vector_width", vector_width, "vector", None if vector is None else vector.shape[-1]),
        ("map_channels", map_channels, "maps", 0 if maps is None else maps.shape[1]),
    ):
        if given != expected:
            description = f"has {part} of width {given}" if given else f"has no {part}"
            now, needed = ("null" if width is None else width for width in (expected, given))
            raise ValueError(f"network.{setting}={now}, but the conditioning {description}; set network.{setting}={needed}")


class UNet(nn.Module):
    """Ho et al. 2020 (arXiv 2006.11239, appendix B) with cross-attention (Rombach et al. 2022, arXiv 2112.10752, 3.3).

    Args:
        in_channels: C of the latents and of the output.
        context_width: D of the tokens to attend to; None if there are none.
        vector_width: D of the conditioning's vector; None if it has none.
        channels: width of each level; the side halves from one level to the next.
        blocks: residual blocks of a level on the way down.
        extra_up_block: one more on the way up, with shortcuts also from the first convolution and the downsampling, as in
            published models; False joins only blocks of the same level, for a third less work.
        attention: which levels have transformers, one flag each.
        middle_attention: whether the middle has one; None does as the last level.
        only_cross_attention: levels whose transformers attend to the tokens twice instead of to positions first, one flag
            each, as in Stable Diffusion's x4 upscaler; None for no level.
        head_size: width of an attention head; must divide the widths of the levels with attention.
        heads: number of attention heads at every level, so that their size grows with the width; overrides `head_size`.
        patch_size: side of the squares of latents that are folded into channels at the input and unfolded at the output; 2
            leaves a quarter of the positions, and costs almost no quality on small latents.
        map_channels: C of the conditioning's maps, concatenated to the input.
        add_maps: add the first `in_channels` of the maps to the output, so that the network learns the difference from
            them: with prediction=clean, what enlarging adds to a picture that was enlarged by interpolation.
        expansion: hidden width of the transformers' feed-forward layers over their width.
        scale_shift: how the residual blocks use the embedding, as in `ResidualBlock`; False in Stable Diffusion.
        dropout: probability inside the residual blocks.
        gradient_checkpointing: compute each block again in the backward pass, for the same gradients (Chen et al. 2016,
            arXiv 1604.06174): about a third more time, and memory only for the blocks' inputs.

    Raises:
        ValueError: widths, flags and heads do not fit each other.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        context_width: int | None,
        vector_width: int | None,
        channels: Sequence[int],
        blocks: int = 2,
        extra_up_block: bool = True,
        attention: Sequence[bool],
        middle_attention: bool | None = None,
        only_cross_attention: Sequence[bool] | None = None,
        head_size: int = 64,
        heads: int | None = None,
        patch_size: int = 1,
        map_channels: int = 0,
        add_maps: bool = False,
        expansion: int = 4,
        scale_shift: bool = True,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_settings(
            channels,
            attention,
            middle_attention=bool(middle_attention),
            only_cross_attention=only_cross_attention,
            context_width=context_width,
            heads=heads,
            head_size=head_size,
            counts={"in_channels": in_channels, "blocks": blocks, "patch_size": patch_size, "expansion": expansion},
        )
        check_added_maps(map_channels, in_channels, add_maps=add_maps)
        self.patch_size, self.in_channels, self.add_maps = patch_size, in_channels, add_maps
        self.context_width, self.vector_width, self.map_channels = context_width, vector_width, map_channels
        self.divisor = patch_size * 2 ** (len(channels) - 1)
        embedding_width = 4 * channels[0]

        only_cross = list(only_cross_attention or [False] * len(channels))

        def block(in_width: int, out_width: int, *, attends: bool, only_cross: bool = False) -> UNetBlock:
            residual = ResidualBlock(
                in_width, out_width, embedding_width=embedding_width, scale_shift=scale_shift, dropout=dropout
            )
            transformer = None
            if attends:
                size = head_size if heads is None else out_width // heads
                transformer = SpatialTransformer(
                    out_width, head_size=size, context_width=context_width, only_cross=only_cross, expansion=expansion
                )
            return UNetBlock(residual, transformer, recompute=gradient_checkpointing)

        self.time = TimeEmbedding(channels[0], embedding_width)
        self.vector = None if vector_width is None else nn.Linear(vector_width, embedding_width)
        self.conv_in = nn.Conv2d(patch_size**2 * (in_channels + map_channels), channels[0], 3, padding=1)
        self.extra_up_block = extra_up_block
        self.control: nn.Module | None = None  # a ControlNet that is put in later
        width, widths = channels[0], [channels[0]] if extra_up_block else []
        self.down = nn.ModuleList()
        for level, (out_width, attends) in enumerate(zip(channels, attention, strict=True)):
            if level > 0:
                self.down.append(Downsample(width))
                widths += [width] if extra_up_block else []
            for _ in range(blocks):
                self.down.append(block(width, out_width, attends=attends, only_cross=only_cross[level]))
                width = out_width
                widths.append(width)
        self.shortcut_widths, self.middle_width = tuple(widths), width
        middle_attends = attention[-1] if middle_attention is None else middle_attention
        self.middle = nn.ModuleList(
            [block(width, width, attends=middle_attends), block(width, width, attends=False)],
        )
        self.up = nn.ModuleList()
        for level, (out_width, attends) in reversed(list(enumerate(zip(channels, attention, strict=True)))):
            for _ in range(blocks + extra_up_block):
                self.up.append(block(width + widths.pop(), out_width, attends=attends, only_cross=only_cross[level]))
                width = out_width
            if level > 0:
                self.up.append(Upsample(width))
        self.norm_out = group_norm(width)
        self.conv_out = zero_parameters(nn.Conv2d(width, patch_size**2 * in_channels, 3, padding=1))

    def forward(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the output (B, C, H, W) for noisy latents (B, C, H, W), timesteps (B,) and conditioning.

        Raises:
            ValueError: the levels cannot halve a side evenly, or the network was not made for this conditioning.
        """
        if x_t.shape[-1] % self.divisor or x_t.shape[-2] % self.divisor:
            raise ValueError(
                f"latents of {x_t.shape[-1]}x{x_t.shape[-2]} do not fit: this network needs multiples of {self.divisor}"
            )
        check_conditioning(
            conditioning,
            context_width=self.context_width,
            vector_width=self.vector_width,
            map_channels=self.map_channels,
        )
        if conditioning.maps is not None:
            x_t = torch.cat([x_t, conditioning.maps], dim=1)
        shortcuts, x, embedding = run_encoder(self, x_t, t, conditioning)
        if self.control is not None:
            added, more = self.control(x_t, t, conditioning)
            shortcuts, x = [shortcut + one for shortcut, one in zip(shortcuts, added, strict=True)], x + more
        for layer in self.up:
            x = (
                layer(torch.cat([x, shortcuts.pop()], dim=1), embedding, conditioning)
                if isinstance(layer, UNetBlock)
                else layer(x)
            )
        output = F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.patch_size)
        if self.add_maps and conditioning.maps is not None:
            output = output + conditioning.maps[:, : self.in_channels]
        return output
