"""The autoencoder's names: latent-diffusion's `first_stage_model`, old diffusers folders, and today's AutoencoderKL.

Today's projects to queries, keys, values and back by linear layers, latent-diffusion's by 1x1 convolutions: the same map.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Size

from ldm_train.weights.tensor_mapping import Piece

PREFIX = "first_stage_model."
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
MIDDLE = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}
MATRICES = re.compile(r".*\.attentions\.\d+\.(to_q|to_k|to_v|to_out\.0)\.weight")


def to_diffusers_names(names: Iterable[str]) -> dict[str, str]:
    """Single-file names, without their prefix, to those of AutoencoderKL; a name of another layout stays as it is."""
    names = list(names)
    ups = 1 + max((int(match[1]) for name in names if (match := re.match(r"decoder\.up\.(\d+)\.", name))), default=0)
    return {name: _diffusers_name(name, ups) for name in names}


def to_single_file_names(names: Iterable[str]) -> dict[str, str]:
    """AutoencoderKL's names to single-file ones, with their prefix.

    Raises:
        ValueError: a name has no place there.
    """
    names = list(names)
    ups = 1 + max((int(match[1]) for name in names if (match := re.match(r"decoder\.up_blocks\.(\d+)\.", name))), default=0)
    found = {name: _single_file_name(name, ups) for name in names}
    if unknown := [name for name, single in found.items() if to_diffusers_names(found.values())[single] != name]:
        raise ValueError(f"latent-diffusion's layout has no place for {', '.join(unknown[:5])}")
    return {name: f"{PREFIX}{single}" for name, single in found.items()}


def renewed(name: str) -> str:
    """An attention's name as old diffusers folders have it, in today's words."""
    return re.sub(
        r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))$", lambda m: m[1] + OLD[m[2]] + m[3], name
    )


def reading(names: Iterable[str]) -> dict[str, Piece]:
    """How AutoencoderKL's own tensors are made of those of a file, by the same names: projections in either form."""
    return {name: Piece((name,), turn="matrix" if MATRICES.fullmatch(name) else "") for name in names}


def writing(names: Iterable[str]) -> dict[str, Piece]:
    """How a single file's tensors are made of AutoencoderKL's."""
    single = to_single_file_names(names)
    return {single[n]: Piece((n,), turn="convolution" if MATRICES.fullmatch(n) else "") for n in single}


def architecture(shapes: Mapping[str, Size]) -> dict[str, object]:
    """The arguments of an AutoencoderKL whose tensors have these names and shapes, as far as these tell.

    Raises:
        ValueError: there is no autoencoder among them.
    """
    levels = sorted({int(m[1]) for name in shapes if (m := re.match(r"encoder\.down_blocks\.(\d+)\.", name))})
    last = [shapes.get(f"encoder.down_blocks.{level}.resnets.0.conv2.weight") for level in levels]
    stem, latent = shapes.get("encoder.conv_in.weight"), shapes.get("decoder.conv_in.weight")
    if not levels or None in last or stem is None or latent is None or len(latent) != 4 or len(stem) != 4:
        raise ValueError(
            "there is no autoencoder in it: encoder.down_blocks.0, encoder.conv_in or decoder.conv_in is missing"
        )
    blocks = {m[1] for name in shapes if (m := re.match(r"encoder\.down_blocks\.0\.resnets\.(\d+)\.", name))}
    return {
        "in_channels": stem[1],
        "block_out_channels": tuple(shape[0] for shape in last if shape),
        "down_block_types": ("DownEncoderBlock2D",) * len(levels),
        "up_block_types": ("UpDecoderBlock2D",) * len(levels),
        "layers_per_block": len(blocks),
        "latent_channels": latent[1],
        "norm_num_groups": 32,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": any(name.startswith("encoder.mid_block.attentions.") for name in shapes),
    }


def _diffusers_name(name: str, ups: int) -> str:
    name = re.sub(r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out.", name)
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.(block_1|block_2|attn_1)\.(.+)", name):
        return f"{match[1]}.mid_block.{MIDDLE[match[2]]}.{_inner(match[3], attention=match[2] == 'attn_1')}"
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.block\.(\d+)\.(.+)", name):
        return f"{match[1]}_blocks.{_level(match[1], match[2], ups)}.resnets.{match[3]}.{_inner(match[4])}"
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.(down|up)sample\.(.+)", name):
        return f"{match[1]}_blocks.{_level(match[1], match[2], ups)}.{match[3]}samplers.0.{match[4]}"
    return name


def _single_file_name(name: str, ups: int) -> str:
    name = re.sub(r"^(encoder|decoder)\.conv_norm_out\.", r"\1.norm_out.", name)
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.((?:resnets|attentions)\.\d)\.(.+)", name):
        place = {new: old for old, new in MIDDLE.items()}.get(match[2], match[2])
        module, _, kind = match[3].rpartition(".")
        inner = {new: old for old, new in ATTENTION.items()}.get(module, module) if place == "attn_1" else module
        return f"{match[1]}.mid.{place}.{inner.replace('conv_shortcut', 'nin_shortcut')}.{kind}"
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.resnets\.(\d+)\.(.+)", name):
        inner = match[4].replace("conv_shortcut", "nin_shortcut")
        return f"{match[1]}.{_level(match[1], match[2], ups)}.block.{match[3]}.{inner}"
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(down|up)samplers\.0\.(.+)", name):
        return f"{match[1]}.{_level(match[1], match[2], ups)}.{match[3]}sample.{match[4]}"
    return name


def _level(side: str, number: str, ups: int) -> int:
    """latent-diffusion counts the decoder's levels from the picture's side, diffusers from the latents'."""
    return int(number) if side.startswith("encoder") else ups - 1 - int(number)


def _inner(name: str, *, attention: bool = False) -> str:
    module, _, kind = name.rpartition(".")
    return f"{ATTENTION.get(module, module) if attention else module.replace('nin_shortcut', 'conv_shortcut')}.{kind}"
