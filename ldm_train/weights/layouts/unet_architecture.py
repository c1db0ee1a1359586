"""What a published U-Net is, in the words of our settings: by its tensors' shapes, and its config where it has one."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Size

Settings = dict[str, object]

# diffusers' settings of another meaning than our network has, by the values that are ours.
SAME: dict[str, tuple[object, ...]] = {
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


def of_shapes(shapes: Mapping[str, Size]) -> Settings:
    """Our settings of a network whose tensors have these names, diffusers', and shapes, without what they do not tell."""
    found: Settings = {}
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


def _of_blocks(shapes: Mapping[str, Size], channels: Sequence[int]) -> Settings:
    found: Settings = {}
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
    flags = []
    for level, width in enumerate(channels):
        key = shapes.get(f"down_blocks.{level}.attentions.0.transformer_blocks.0.attn1.to_k.weight")
        # Where the tokens are as wide as the level, the shape is that of either.
        flags.append(None if key is None or key[-1] == width == found.get("context_width") else key[-1] != width)
    if any(flag is not None for flag in flags):
        found["only_cross_attention"] = flags
    return found


def linear_projection(shapes: Mapping[str, Size]) -> bool | None:
    """Whether its transformers project by linear layers, as 2.x do, or by 1x1 convolutions, as 1.x; None without any."""
    found = next((shape for name, shape in shapes.items() if name.endswith("proj_in.weight")), None)
    return None if found is None else len(found) == 2


def published_heads(found: Settings, shapes: Mapping[str, Size]) -> list[int] | None:
    """Of each level, for the published shapes alone: no tensor's shape tells the number of heads. None for others."""
    channels, width, linear = found.get("channels"), found.get("context_width"), linear_projection(shapes)
    if channels == [320, 640, 1280, 1280] and width == 768 and linear is False:
        return [8, 8, 8, 8]
    if channels == [320, 640, 1280, 1280] and width == 1024 and linear is True:
        return [5, 10, 20, 20]
    if channels == [256, 512, 512, 1024] and width == 1024 and found.get("vector_width") == 1000:
        return [8, 8, 8, 8]
    return None


def family(found: Settings, shapes: Mapping[str, Size]) -> str:
    """What a network looks like, in words."""
    width, linear = found.get("context_width"), linear_projection(shapes)
    kind = {1: "depth", 5: "inpainting", 3: "upscaler"}.get(int(str(found.get("map_channels", 0))), "")
    name = "1.x" if width == 768 and linear is False else "2.x" if width == 1024 and linear else ""
    shape = f"channels={found.get('channels')}, context_width={width}"
    return f"{f'Stable Diffusion {name} {kind}'.strip() if name else kind or 'a network'} ({shape})".replace("'", "")


def of_config(config: Mapping[str, Any]) -> Settings:
    """What shapes do not tell, from diffusers' config: `heads` of each level, and which attend to the tokens alone.

    Raises:
        ValueError: a setting of a meaning that our network has not.
    """
    other = {name: config[name] for name, own in SAME.items() if name in config and config[name] not in own}
    if other:
        words = ", ".join(f"{name}={value}" for name, value in list(other.items())[:5])
        raise ValueError(f"its config.json has {words}, which this network cannot hold; network=diffusers_unet may")
    count = len(config.get("block_out_channels", ()))
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    only = config.get("only_cross_attention", False)
    return {"heads": _each(heads, count), "only_cross_attention": _each(only, count)}


def _each(value: object, count: int) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value] * count


def differences(found: Settings, own: Mapping[str, object]) -> list[str]:
    """In which settings a network that was found differs from one's own; what is not known differs in nothing."""
    return [
        f"{name}={_shown(value)} there and {_shown(own[name])} here"
        for name, value in found.items()
        if name in own and not _alike(value, own[name])
    ]


def _alike(found: object, own: object) -> bool:
    if isinstance(found, list) and isinstance(own, list):
        return len(found) == len(own) and all(f is None or o is None or f == o for f, o in zip(found, own, strict=True))
    return found == own


def _shown(value: object) -> str:
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, list):
        return f"[{', '.join(_shown(one) for one in value)}]"
    return words[value] if value is None or isinstance(value, bool) else str(value)
