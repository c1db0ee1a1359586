"""The U-Net of diffusers as a network: to train a published model as it is, and to compare the project's U-Net with."""

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, cat, nn

from ldm_train.networks.encoder_half import control_strength
from ldm_train.networks.unet import check_conditioning
from ldm_train.types import Conditioning

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class DiffusersUNet(nn.Module):
    """diffusers' UNet2DConditionModel, with a linear layer for the conditioning's vector as its class embedding.

    Args:
        in_channels: C of the latents and of the output.
        context_width: D of the tokens to attend to.
        vector_width: D of the conditioning's vector; None if it has none.
        map_channels: C of the conditioning's maps, concatenated to the input.
        settings: further arguments of UNet2DConditionModel.

    Raises:
        ValueError: `context_width` is None: UNet2DConditionModel always attends to tokens.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        context_width: int | None,
        vector_width: int | None,
        map_channels: int = 0,
        **settings: object,
    ) -> None:
        super().__init__()
        if context_width is None:
            raise ValueError(
                "diffusers' U-Net attends to tokens, but network.context_width=null; choose network=unet_small or unet_base"
            )
        from diffusers import UNet2DConditionModel  # takes seconds, which only runs with this network pay

        self.context_width, self.vector_width, self.map_channels = context_width, vector_width, map_channels
        self.control: nn.Module | None = None  # a ControlNet that is put in later
        self.unet = UNet2DConditionModel(
            in_channels=in_channels + map_channels,
            out_channels=in_channels,
            cross_attention_dim=context_width,
            class_embed_type=None if vector_width is None else "simple_projection",
            projection_class_embeddings_input_dim=vector_width,
            **settings,
        )

    def forward(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the output (B, C, H, W) for noisy latents (B, C, H, W), timesteps (B,) and conditioning."""
        check_conditioning(
            conditioning,
            context_width=self.context_width,
            vector_width=self.vector_width,
            map_channels=self.map_channels,
        )
        x_t = x_t if conditioning.maps is None else cat([x_t, conditioning.maps], dim=1)
        tokens, mask, vector = conditioning.tokens, conditioning.mask, conditioning.vector
        arguments = {"class_labels": vector, "encoder_attention_mask": mask, "return_dict": False}
        if self.control is not None:
            added, more = self.control(x_t, t, conditioning)
            arguments |= {"down_block_additional_residuals": added, "mid_block_additional_residual": more}
        return self.unet(x_t, t, tokens, **arguments)[0]


class DiffusersControl(nn.Module):
    """diffusers' ControlNetModel for a `DiffusersUNet`, a copy of its encoder half.

    Args:
        unet: the UNet2DConditionModel that is copied.
        channels: C of the map.
        widths: of the hint encoder.

    Attributes:
        scale: factor of what it adds.

    Raises:
        ValueError: a network that ControlNetModel has no counterpart of.
    """

    def __init__(self, unet: "UNet2DConditionModel", *, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        from diffusers import ControlNetModel

        if unet.config.class_embed_type == "simple_projection":  # of the conditioning's vector
            raise ValueError("diffusers' ControlNetModel takes no vector; choose a text encoder with pooled=false")
        self.channels, self.scale = channels, 1.0
        names = inspect.signature(ControlNetModel.__init__).parameters
        settings = {name: value for name, value in unet.config.items() if name in names}
        with next(unet.parameters()).device:  # such as meta
            self.model = ControlNetModel(
                **settings, conditioning_channels=channels, conditioning_embedding_out_channels=tuple(widths)
            )
        for part in ("conv_in", "time_proj", "time_embedding", "down_blocks", "mid_block"):
            setattr(self.model, part, copy.deepcopy(getattr(unet, part)))

    def forward(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> tuple[list[Tensor], Tensor]:
        """Return what is added to each of the network's shortcuts, and to its middle; zeros for examples without a map.

        Raises:
            ValueError: tokens with a mask, which ControlNetModel does not have.
        """
        if conditioning.mask is not None:
            raise ValueError(
                "diffusers' ControlNetModel attends to all tokens, and some are masked here; choose "
                "network=unet_base or another network of this package"
            )
        strength = control_strength(conditioning, channels=self.channels, scale=self.scale)
        added, more = self.model(x_t, t, conditioning.tokens, conditioning.control, return_dict=False)
        return [one * strength.to(one) for one in added], more * strength.to(more)
