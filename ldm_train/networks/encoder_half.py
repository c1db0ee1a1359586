"""The encoder half of a U-Net, which a ControlNet copies."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ldm_train.networks.attention import SpatialTransformer
from ldm_train.networks.blocks import ResidualBlock
from ldm_train.networks.embeddings import TimeEmbedding
from ldm_train.types import Conditioning


class UNetBlock(nn.Module):
    """A residual block and, at levels with attention, a transformer.

    Args:
        recompute: keep only the input for the backward pass, and compute the rest again then.
    """

    def __init__(self, residual: ResidualBlock, transformer: SpatialTransformer | None, *, recompute: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.transformer = transformer
        self.recompute = recompute

    def forward(self, x: Tensor, embedding: Tensor, conditioning: Conditioning) -> Tensor:
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(self._compute, x, embedding, conditioning, use_reentrant=False)
        return self._compute(x, embedding, conditioning)

    def _compute(self, x: Tensor, embedding: Tensor, conditioning: Conditioning) -> Tensor:
        x = self.residual(x, embedding)
        return x if self.transformer is None else self.transformer(x, conditioning.tokens, conditioning.mask)


class Encoder(Protocol):
    """The encoder half of a `UNet`: the network itself, or a copy of that half."""

    time: TimeEmbedding
    vector: nn.Linear | None
    conv_in: nn.Conv2d
    down: nn.ModuleList
    middle: nn.ModuleList
    patch_size: int
    extra_up_block: bool


def run_encoder(
    half: Encoder, x_t: Tensor, t: Tensor, conditioning: Conditioning, *, hint: Tensor | None = None
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return the shortcuts to the way up, the middle's output, and the embedding of t, all of noisy latents (B, C, H, W).

    Args:
        hint: what is added to the first convolution's output.
    """
    embedding = half.time(t)
    if half.vector is not None:
        embedding = embedding + half.vector(conditioning.vector)
    embedding = F.silu(embedding)
    x = half.conv_in(F.pixel_unshuffle(x_t, half.patch_size))
    x = x if hint is None else x + hint
    shortcuts = [x] if half.extra_up_block else []
    for layer in half.down:
        x = layer(x, embedding, conditioning) if isinstance(layer, UNetBlock) else layer(x)
        if isinstance(layer, UNetBlock) or half.extra_up_block:
            shortcuts.append(x)
    for layer in half.middle:
        x = layer(x, embedding, conditioning)
    return shortcuts, x, embedding


def control_strength(conditioning: Conditioning, *, channels: int, scale: float) -> Tensor:
    """Return by what a ControlNet's output is multiplied, (B, 1, 1, 1): the scale, or 0 for examples without a map.

    Raises:
        ValueError: there is no map for a ControlNet, or it has other channels.
    """
    control, controlled = conditioning.control, conditioning.controlled
    if control is None or controlled is None:
        raise ValueError("the network has a ControlNet, and the conditioning has no map; pass control and controlled")
    if control.shape[1] != channels:
        raise ValueError(f"the ControlNet takes maps of {channels} channels, and the conditioning's has {control.shape[1]}")
    return (controlled * scale).to(control).view(-1, 1, 1, 1)
