"""The U-Net: levels of falling resolution and back, with shortcuts between, told the timestep and the conditioning."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_train.networks.attention import SpatialTransformer
from ldm_train.networks.blocks import Downsample, ResidualBlock, Upsample, group_norm, zero
from ldm_train.networks.embeddings import TimeEmbedding
from ldm_train.types import Conditioning


class Block(nn.Module):
    """A residual block and, where the level has it, a transformer."""

    def __init__(self, residual: ResidualBlock, transformer: SpatialTransformer | None) -> None:
        super().__init__()
        self.residual = residual
        self.transformer = transformer

    def forward(self, x: Tensor, embedding: Tensor, conditioning: Conditioning) -> Tensor:
        x = self.residual(x, embedding)
        return x if self.transformer is None else self.transformer(x, conditioning.tokens, conditioning.mask)


class UNet(nn.Module):
    """Ho et al. 2020 (arXiv 2006.11239, appendix B) with cross-attention (Rombach et al. 2022, arXiv 2112.10752, 3.3).

    Args:
        in_channels: C of the latents and of the output.
        context_width: D of the tokens to attend to; None for none.
        vector_width: D of the conditioning's vector; None for none.
        channels: width of each level; the side halves from one to the next.
        blocks: residual blocks of a level on the way down.
        extra_up_block: one more on the way up, with shortcuts from the first convolution and the halvings too, as published
            models have it; without, shortcuts join equal blocks alone, for a third less work.
        attention: which levels have transformers, one flag each; the middle has one where the last level does.
        head_size: width of an attention head; must divide the widths of the levels with attention.
        patch_size: side of the squares of latents that are folded into channels first, and unfolded last; with 2 a quarter
            of the positions remains, for almost nothing lost on small latents.
        map_channels: C of the conditioning's maps, concatenated to the input.
        expansion: of the transformers' feed-forward layers.
        dropout: inside the residual blocks.

    Raises:
        ValueError: widths, flags and head size do not fit each other.
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
        head_size: int = 64,
        patch_size: int = 1,
        map_channels: int = 0,
        expansion: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(attention) != len(channels):
            raise ValueError(f"network.attention has {len(attention)} flags for {len(channels)} levels of network.channels")
        uneven = [width for width, has in zip(channels, attention, strict=True) if has and width % head_size]
        if uneven:
            raise ValueError(f"network.head_size={head_size} does not divide the width {uneven[0]}; choose a divisor of it")
        self.patch_size = patch_size
        self.map_channels = map_channels
        self.divisor = patch_size * 2 ** (len(channels) - 1)
        embedding_width = 4 * channels[0]

        def block(in_width: int, out_width: int, *, attends: bool) -> Block:
            residual = ResidualBlock(in_width, out_width, embedding_width=embedding_width, dropout=dropout)
            if not attends:
                return Block(residual, None)
            return Block(
                residual,
                SpatialTransformer(out_width, head_size=head_size, context_width=context_width, expansion=expansion),
            )

        self.time = TimeEmbedding(channels[0], embedding_width)
        self.vector = None if vector_width is None else nn.Linear(vector_width, embedding_width)
        self.conv_in = nn.Conv2d(patch_size**2 * (in_channels + map_channels), channels[0], 3, padding=1)
        self.extra_up_block = extra_up_block
        width, widths = channels[0], [channels[0]] if extra_up_block else []
        self.down = nn.ModuleList()
        for level, (out_width, attends) in enumerate(zip(channels, attention, strict=True)):
            if level > 0:
                self.down.append(Downsample(width))
                widths += [width] if extra_up_block else []
            for _ in range(blocks):
                self.down.append(block(width, out_width, attends=attends))
                width = out_width
                widths.append(width)
        self.middle = nn.ModuleList(
            [block(width, width, attends=attention[-1]), block(width, width, attends=False)],
        )
        self.up = nn.ModuleList()
        for level, (out_width, attends) in reversed(list(enumerate(zip(channels, attention, strict=True)))):
            for _ in range(blocks + extra_up_block):
                self.up.append(block(width + widths.pop(), out_width, attends=attends))
                width = out_width
            if level > 0:
                self.up.append(Upsample(width))
        self.norm_out = group_norm(width)
        self.conv_out = zero(nn.Conv2d(width, patch_size**2 * in_channels, 3, padding=1))

    def forward(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Noisy latents (B, C, H, W), timesteps (B,) and conditioning to an output (B, C, H, W).

        Raises:
            ValueError: a side that the levels cannot halve evenly.
        """
        if x_t.shape[-1] % self.divisor or x_t.shape[-2] % self.divisor:
            raise ValueError(
                f"latents of {x_t.shape[-2]}x{x_t.shape[-1]} do not fit this network: it needs multiples of {self.divisor}"
            )
        embedding = self.time(t)
        if self.vector is not None:
            if conditioning.vector is None:
                raise ValueError(
                    "this network is told a vector, and the conditioning has none; set network.vector_width=null"
                )
            embedding = embedding + self.vector(conditioning.vector)
        embedding = F.silu(embedding)
        if (0 if conditioning.maps is None else conditioning.maps.shape[1]) != self.map_channels:
            raise ValueError(f"the conditioning's maps do not have the {self.map_channels} channels of network.map_channels")
        if conditioning.maps is not None:
            x_t = torch.cat([x_t, conditioning.maps], dim=1)
        x = self.conv_in(F.pixel_unshuffle(x_t, self.patch_size))
        kept = [x] if self.extra_up_block else []
        for layer in self.down:
            x = layer(x, embedding, conditioning) if isinstance(layer, Block) else layer(x)
            if isinstance(layer, Block) or self.extra_up_block:
                kept.append(x)
        for layer in self.middle:
            x = layer(x, embedding, conditioning)
        for layer in self.up:
            x = layer(torch.cat([x, kept.pop()], dim=1), embedding, conditioning) if isinstance(layer, Block) else layer(x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.patch_size)
