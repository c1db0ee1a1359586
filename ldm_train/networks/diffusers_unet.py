"""The U-Net of diffusers as a network: to train a published model as it is, and to compare the project's U-Net with."""

from torch import Tensor, cat, nn

from ldm_train.networks.unet import check_conditioning
from ldm_train.types import Conditioning


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
        maps = [] if conditioning.maps is None else [conditioning.maps]
        tokens, mask, vector = conditioning.tokens, conditioning.mask, conditioning.vector
        arguments = {"class_labels": vector, "encoder_attention_mask": mask, "return_dict": False}
        return self.unet(cat([x_t, *maps], dim=1), t, tokens, **arguments)[0]
