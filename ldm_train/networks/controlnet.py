"""A ControlNet: a trained copy of a frozen U-Net's encoder half, which makes it follow a map (arXiv 2302.05543)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_train.networks.blocks import zero_parameters
from ldm_train.networks.encoder_half import control_strength, run_encoder
from ldm_train.networks.unet import UNet
from ldm_train.types import Conditioning

PAPER_WIDTHS = (16, 32, 96, 256)  # of the hint encoder; one for each resolution from the pictures' to the latents'


@dataclass(frozen=True)
class ControlNet:
    """Train a ControlNet on a frozen network (Zhang et al. 2023, arXiv 2302.05543, section 3).

    Args:
        hint_channels: widths of the hint encoder at the pictures' resolution, at half of it, and so on down to the
            latents'; None for those of published ControlNets, as many as there are resolutions.
    """

    hint_channels: Sequence[int] | None = None

    def choose_widths(self, factor: int) -> list[int]:
        """Return the widths of a hint encoder that divides the sides by a factor.

        Raises:
            ValueError: the factor is no power of 2, or there are more or fewer widths than resolutions.
        """
        halvings = factor.bit_length() - 1
        if factor != 2**halvings:
            raise ValueError(
                f"adapter=controlnet halves the sides of a map until they are those of the latents, and these are {factor} "
                "times as small as pictures; choose an autoencoder whose factor is a power of 2"
            )
        if self.hint_channels is None:
            return [PAPER_WIDTHS[min(place, len(PAPER_WIDTHS) - 1)] for place in range(halvings + 1)]
        if len(self.hint_channels) != halvings + 1 or min(self.hint_channels) < 1:
            raise ValueError(
                f"adapter.hint_channels={list(self.hint_channels)} must be {halvings + 1} widths, one for each resolution "
                f"from the pictures' to that of the network's first layer, {factor} times as small"
            )
        return list(self.hint_channels)

    def attach(self, network: nn.Module, *, channels: int, factor: int, seed: int) -> None:
        """Put a ControlNet into a network, which computes the same as before; nothing is frozen.

        Args:
            channels: C of the map.
            factor: pixels of a map for each position of the latents.
            seed: of the hint encoder's first weights.

        Raises:
            ValueError: a network whose encoder half is not known, or settings that do not fit the factor.
        """
        if getattr(network, "control", None) is not None:
            raise ValueError("the network has a ControlNet already; attach it to another copy of the network")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = self._make(network, channels=channels, factor=factor)
        first = next(network.parameters())
        network.control = made.to(first.device, first.dtype).train(network.training)

    def _make(self, network: nn.Module, *, channels: int, factor: int) -> nn.Module:
        if isinstance(network, UNet):
            return ControlBranch(network, channels=channels, widths=self.choose_widths(factor * network.patch_size))
        from ldm_train.networks.diffusers_unet import DiffusersControl, DiffusersUNet  # diffusers takes seconds

        if isinstance(network, DiffusersUNet):
            return DiffusersControl(network.unet, channels=channels, widths=self.choose_widths(factor))
        raise ValueError(
            f"adapter=controlnet copies the encoder half of a network, and that of {type(network).__name__} is not known; "
            "choose network=unet_base or network=diffusers_unet"
        )


class HintEncoder(nn.Module):
    """Strided convolutions from a map (B, C, H, W) to what is added after the network's first layer; zero at the start.

    Args:
        channels: C of the map.
        widths: at each resolution; the sides halve from one to the next.
        out_channels: of the features.
    """

    def __init__(self, channels: int, widths: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.widths = list(widths)
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, next_width in pairwise(widths):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, next_width, 3, padding=1, stride=2))
        self.conv_out = zero_parameters(nn.Conv2d(widths[-1], out_channels, 3, padding=1))

    def forward(self, maps: Tensor) -> Tensor:
        x = F.silu(self.conv_in(maps))
        for layer in self.blocks:
            x = F.silu(layer(x))
        return self.conv_out(x)


class ControlBranch(nn.Module):
    """The ControlNet of a `UNet`.

    Args:
        network: its time embedding, first convolution, way down and middle are copied.
        channels: C of the map.
        widths: of the hint encoder.

    Attributes:
        scale: factor of what it adds.
    """

    def __init__(self, network: UNet, *, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.patch_size, self.extra_up_block = network.patch_size, network.extra_up_block
        self.channels, self.scale = channels, 1.0
        self.time, self.vector = copy.deepcopy(network.time), copy.deepcopy(network.vector)
        self.conv_in, self.down = copy.deepcopy(network.conv_in), copy.deepcopy(network.down)
        self.middle = copy.deepcopy(network.middle)
        with network.conv_in.weight.device:  # such as meta
            self.hint = HintEncoder(channels, widths, network.conv_in.out_channels)
            self.zero_down = nn.ModuleList(make_zero_convolution(width) for width in network.shortcut_widths)
            self.zero_middle = make_zero_convolution(network.middle_width)

    def forward(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> tuple[list[Tensor], Tensor]:
        """Return what is added to each of the network's shortcuts, and to its middle; zeros for examples without a map."""
        strength = control_strength(conditioning, channels=self.channels, scale=self.scale)
        shortcuts, x, _ = run_encoder(self, x_t, t, conditioning, hint=self.hint(conditioning.control))
        added = [layer(shortcut) for layer, shortcut in zip(self.zero_down, shortcuts, strict=True)]
        return [one * strength.to(one) for one in added], self.zero_middle(x) * strength.to(x)


def make_zero_convolution(width: int) -> nn.Conv2d:
    """Return a 1x1 convolution that gives zeros at first."""
    return zero_parameters(nn.Conv2d(width, width, 1))
