"""The settings of a published U-Net, inferred from its tensors' shapes and read from its config if it has one."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, TypeVar

from torch import Size

from ldm_train.util.text import list_names

SettingValue = TypeVar("SettingValue")


class UNetSettings(TypedDict, total=False):
    """The settings that decide a `UNet`'s architecture, named as the `UNet`'s arguments; one that is not known is absent.

    Lists have an entry for each level, None where the level's setting is not known. A width of None means that the network
    has no such input.
    """

    channels: list[int]
    attention: list[bool]
    blocks: int
    heads: list[int | None]
    middle_attention: bool
    only_cross_attention: list[bool | None]
    expansion: int
    scale_shift: bool
    in_channels: int
    map_channels: int
    context_width: int | None
    vector_width: int | None
    patch_size: int
    extra_up_block: bool
    add_maps: bool
    dropout: float


# Settings of diffusers' UNet2DConditionModel that a `UNet` lacks, with the values for which both compute the same.
SUPPORTED_VALUES: dict[str, tuple[object, ...]] = {
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1, 1.0),
    "norm_eps": (1e-5,),
    "dual_cross_attention": (False,),
    "transformer_layers_per_block": (1,),
    "encoder_hid_dim_type": (None,),
    "addition_embed_type": (None,),
    "class_embed_type": (None, "simple_projection"),
    "resnet_out_scale_factor": (1.0, 1),
    "resnet_skip_time_act": (False,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "cross_attention_norm": (None,),
    "time_embedding_act_fn": (None,),
}


def infer_unet_settings(shapes: Mapping[str, Size]) -> UNetSettings:
    """Return the settings that the shapes of a U-Net's tensors show; names are diffusers'."""
    found: UNetSettings = {}
    levels = sorted({int(m[1]) for name in shapes if (m := re.match(r"down_blocks\.(\d+)\.resnets\.", name))})
    first = [shapes.get(f"down_blocks.{level}.resnets.0.conv1.weight") for level in levels]
    if levels and all(shape is not None for shape in first):
        found["channels"] = [shape[0] for shape in first if shape]
        found["attention"] = [
            any(name.startswith(f"down_blocks.{level}.attentions.") for name in shapes) for level in levels
        ]
        found["blocks"] = len({m[1] for name in shapes if (m := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name))})
        found["middle_attention"] = any(name.startswith("mid_block.attentions.") for name in shapes)
        found |= _of_blocks(shapes, [shape[0] for shape in first if shape])
    stem, head = shapes.get("conv_in.weight"), shapes.get("conv_out.weight")
    if stem is not None and head is not None and len(stem) == len(head) == 4:
        found |= {"in_channels": head[0], "map_channels": stem[1] - head[0]}
    vector, bias = shapes.get("class_embedding.weight"), "class_embedding.bias" in shapes
    if vector is not None and len(vector) == 2:
        found["vector_width"] = vector[1] if bias else vector[0]
    elif "conv_in.weight" in shapes:
        found["vector_width"] = None
    return found


def _of_blocks(shapes: Mapping[str, Size], channels: Sequence[int]) -> UNetSettings:
    found: UNetSettings = {}
    embedding = shapes.get("down_blocks.0.resnets.0.time_emb_proj.weight")
    if embedding is not None:
        found["scale_shift"] = embedding[0] == 2 * channels[0]
    crossing = [name for name in shapes if name.endswith("attn2.to_k.weight")]
    if crossing:
        found["context_width"] = shapes[crossing[0]][-1]
    elif any("attn1" in name for name in shapes):
        found["context_width"] = None
    hidden = next((name for name in shapes if name.endswith("ff.net.2.weight")), None)
    if hidden is not None and shapes[hidden][0]:
        found["expansion"] = shapes[hidden][1] // shapes[hidden][0]
    flags: list[bool | None] = []
    for level, width in enumerate(channels):
        key = shapes.get(f"down_blocks.{level}.attentions.0.transformer_blocks.0.attn1.to_k.weight")
        # If the tokens are as wide as the level, self- and cross-attention have the same shape: not known.
        flags.append(None if key is None or key[-1] == width == found.get("context_width") else key[-1] != width)
    if any(flag is not None for flag in flags):
        found["only_cross_attention"] = flags
    return found


def uses_linear_projection(shapes: Mapping[str, Size]) -> bool | None:
    """Return whether the transformer blocks project by linear layers (Stable Diffusion 2.x) or by 1x1 convolutions (1.x).

    None if the network has no transformer blocks.
    """
    projection = next((shape for name, shape in shapes.items() if name.endswith("proj_in.weight")), None)
    return None if projection is None else len(projection) == 2


def infer_heads(found: UNetSettings, shapes: Mapping[str, Size]) -> list[int] | None:
    """Return each level's number of attention heads if the shapes are those of a published network, else None.

    The number of heads is in no tensor's shape.
    """
    channels, width, linear = found.get("channels"), found.get("context_width"), uses_linear_projection(shapes)
    if channels == [320, 640, 1280, 1280] and width == 768 and linear is False:
        return [8, 8, 8, 8]
    if channels == [320, 640, 1280, 1280] and width == 1024 and linear is True:
        return [5, 10, 20, 20]
    if channels == [256, 512, 512, 1024] and width == 1024 and found.get("vector_width") == 1000:
        return [8, 8, 8, 8]
    return None


def describe_unet(found: UNetSettings, shapes: Mapping[str, Size]) -> str:
    """Return which published network the settings look like, and its sizes, for messages."""
    width, linear = found.get("context_width"), uses_linear_projection(shapes)
    kind = {1: "depth", 5: "inpainting", 3: "upscaler"}.get(found.get("map_channels", 0), "")
    name = "1.x" if width == 768 and linear is False else "2.x" if width == 1024 and linear else ""
    shape = f"channels={found.get('channels')}, context_width={width}"
    return f"{f'Stable Diffusion {name} {kind}'.strip() if name else kind or 'a network'} ({shape})".replace("'", "")


def read_unet_config(config: Mapping[str, Any]) -> UNetSettings:
    """Return the settings that shapes do not show, from diffusers' `config.json`.

    Raises:
        ValueError: a setting has a value that a `UNet` cannot have.
    """
    other = [
        f"{name}={config[name]}"
        for name, values in SUPPORTED_VALUES.items()
        if name in config and config[name] not in values
    ]
    if other:
        raise ValueError(f"its config.json has {list_names(other)}, which a UNet cannot hold; try network=diffusers_unet")
    count = len(config.get("block_out_channels", ()))
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)  # which is a number, despite its name
    only = config.get("only_cross_attention", False)
    return {"heads": _per_level(heads, count), "only_cross_attention": _per_level(only, count)}


def _per_level(value: SettingValue | Sequence[SettingValue], count: int) -> list[SettingValue]:
    return list(value) if isinstance(value, list | tuple) else [value] * count  # type: ignore[list-item]


def list_unet_differences(found: Mapping[str, object], own: Mapping[str, object]) -> list[str]:
    """Return a description of each setting that differs between published weights and a run's network."""
    return [
        f"{name}={_format_value(value)} there and {_format_value(own[name])} here"
        for name, value in found.items()
        if name in own and not _agree(value, own[name])
    ]


def _agree(found: object, own: object) -> bool:
    """Return whether two values are equal where both are known."""
    if isinstance(found, list) and isinstance(own, list):
        return len(found) == len(own) and all(f is None or o is None or f == o for f, o in zip(found, own, strict=True))
    return found == own


def _format_value(value: object) -> str:
    """Return a value as it is written on the command line."""
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, list):
        return f"[{', '.join(_format_value(one) for one in value)}]"
    return words[value] if value is None or isinstance(value, bool) else str(value)
