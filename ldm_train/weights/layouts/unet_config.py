"""The settings of diffusers' UNet2DConditionModel that make a network of ours, and which of ours it cannot hold."""

from typing import cast

from ldm_train.weights.layouts.unet_architecture import Settings


def not_held(own: Settings) -> list[str]:
    """Which settings diffusers' class has no counterpart of, each with its reason.

    Args:
        own: our settings, with `heads` and `only_cross_attention` of each level.
    """
    found = []
    if own["patch_size"] != 1:
        found.append(f"network.patch_size={own['patch_size']}: it does not fold latents; 1 is what it holds")
    if not own["extra_up_block"]:
        found.append("network.extra_up_block=false: it has one more block at each level of the way up")
    if own["expansion"] != 4:
        found.append(f"network.expansion={own['expansion']}: its feed-forward layers are 4 times as wide")
    if not own["middle_attention"]:
        found.append("network.middle_attention=false: its middle always attends")
    if own["context_width"] is None:
        found.append("a text encoder without tokens: it always attends to tokens")
    channels = cast(list[int], own["channels"])
    if narrow := [width for width in channels if width % 32 or width == 32]:
        found.append(f"network.channels={channels}: it normalises 32 groups, ours of {narrow[0]} channels are fewer")
    return found


def diffusers_config(own: Settings, *, linear_projection: bool, sample_size: int) -> Settings:
    """What belongs into `config.json`.

    Args:
        own: as above, of a network that can be held.
        linear_projection: True as Stable Diffusion 2.x has it, False as 1.x.
        sample_size: side of the latents that it was trained on.
    """
    channels, attends = cast(list[int], own["channels"]), cast(list[bool], own["attention"])
    downs = [f"{'CrossAttn' if flag else ''}DownBlock2D" for flag in attends]
    ups = [f"{'CrossAttn' if flag else ''}UpBlock2D" for flag in reversed(attends)]
    inputs = cast(int, own["in_channels"])
    config: Settings = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": _heads(cast(list[int | None], own["heads"])),
        "block_out_channels": channels,
        "center_input_sample": False,
        "cross_attention_dim": own["context_width"],
        "down_block_types": downs,
        "downsample_padding": 1,
        "dropout": own["dropout"],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": inputs + cast(int, own["map_channels"]),
        "layers_per_block": own["blocks"],
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "only_cross_attention": own["only_cross_attention"],
        "out_channels": inputs,
        "resnet_time_scale_shift": "scale_shift" if own["scale_shift"] else "default",
        "sample_size": sample_size,
        "up_block_types": ups,
        "use_linear_projection": linear_projection,
    }
    if own["vector_width"] is not None:
        config |= {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": own["vector_width"]}
    return config


def _heads(heads: list[int | None]) -> int | list[int]:
    """Their number at each level, which diffusers calls their size; any at one that does not attend."""
    known = next(count for count in reversed(heads) if count is not None)
    counts = [known if count is None else count for count in heads]
    return known if len(set(counts)) == 1 else counts
