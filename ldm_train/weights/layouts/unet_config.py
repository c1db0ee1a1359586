"""The `config.json` of a diffusers UNet2DConditionModel that computes the same as a `UNet`, if there is one."""

from ldm_train.util.safe_json import Json
from ldm_train.weights.layouts.unet_architecture import UNetSettings


def list_unsupported_settings(own: UNetSettings) -> list[str]:
    """Return the settings that UNet2DConditionModel has no counterpart of, each with its reason.

    Args:
        own: all settings of the network.
    """
    found = []
    if own["patch_size"] != 1:
        found.append(f"network.patch_size={own['patch_size']}: diffusers' network does not fold latents; use 1")
    if own.get("add_maps"):
        found.append("network.add_maps=true: diffusers' network adds no maps to its output")
    if not own["extra_up_block"]:
        found.append("network.extra_up_block=false: diffusers' network has one more block at each level of the way up")
    if own["expansion"] != 4:
        found.append(f"network.expansion={own['expansion']}: diffusers' feed-forward layers are 4 times as wide")
    if not own["middle_attention"]:
        found.append("network.middle_attention=false: the middle of diffusers' network always has attention")
    if own["context_width"] is None:
        found.append("a text encoder without tokens: diffusers' network always attends to tokens")
    channels = own["channels"]
    if narrow := [width for width in channels if width % 32 or width == 32]:
        found.append(f"network.channels={channels}: diffusers normalizes 32 groups, a UNet with {narrow[0]} channels fewer")
    return found


def build_unet_config(
    own: UNetSettings, *, linear_projection: bool, sample_size: int, noise_levels: int | None = None
) -> dict[str, Json]:
    """Return the content of `config.json`.

    Args:
        own: all settings of a network without unsupported settings.
        linear_projection: True as in Stable Diffusion 2.x, False as in 1.x.
        sample_size: side of the latents that it was trained on.
        noise_levels: how many, if its vector is one of them, as in the x4 upscaler.
    """
    attends = own["attention"]
    config: dict[str, Json] = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": _join_heads(own["heads"]),
        "block_out_channels": [*own["channels"]],
        "center_input_sample": False,
        "cross_attention_dim": own["context_width"],
        "down_block_types": [f"{'CrossAttn' if flag else ''}DownBlock2D" for flag in attends],
        "downsample_padding": 1,
        "dropout": own["dropout"],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": own["in_channels"] + own["map_channels"],
        "layers_per_block": own["blocks"],
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "only_cross_attention": [*own["only_cross_attention"]],
        "out_channels": own["in_channels"],
        "resnet_time_scale_shift": "scale_shift" if own["scale_shift"] else "default",
        "sample_size": sample_size,
        "up_block_types": [f"{'CrossAttn' if flag else ''}UpBlock2D" for flag in reversed(attends)],
        "use_linear_projection": linear_projection,
    }
    if noise_levels is not None:
        config |= {"num_class_embeds": noise_levels}
    elif own["vector_width"] is not None:
        config |= {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": own["vector_width"]}
    return config


def _join_heads(heads: list[int | None]) -> Json:
    """Return diffusers' `attention_head_dim`, which is the number of heads despite its name: one, or one for each level.

    A level without attention gets the number of a level that has some.
    """
    known = next(count for count in reversed(heads) if count is not None)
    counts = [known if count is None else count for count in heads]
    return known if len(set(counts)) == 1 else [*counts]
