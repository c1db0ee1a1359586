"""Autoencoder names in latent-diffusion's single files (`first_stage_model.…`), old diffusers folders, and AutoencoderKL.

In AutoencoderKL the attention's projections are linear layers; in latent-diffusion they are 1x1 convolutions with the same
weights.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Size

from ldm_train.util.text import list_names
from ldm_train.weights.tensor_mapping import Piece

AUTOENCODER_PREFIX = "first_stage_model."
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
AUTOENCODER_MIDDLE = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}
MATRICES = re.compile(r".*\.attentions\.\d+\.(to_q|to_k|to_v|to_out\.0)\.weight")


def rename_autoencoder_to_diffusers(names: Iterable[str]) -> dict[str, str]:
    """Return the AutoencoderKL name of each single-file name (without prefix), and other names as they are."""
    names = list(names)
    ups = 1 + max((int(match[1]) for name in names if (match := re.match(r"decoder\.up\.(\d+)\.", name))), default=0)
    return {name: _diffusers_name(name, ups) for name in names}


def rename_autoencoder_to_single_file(names: Iterable[str]) -> dict[str, str]:
    """Return the single-file name, with its prefix, of each AutoencoderKL name.

    Raises:
        ValueError: a name has no counterpart in single files.
    """
    names = list(names)
    ups = 1 + max((int(match[1]) for name in names if (match := re.match(r"decoder\.up_blocks\.(\d+)\.", name))), default=0)
    renamed = {name: _single_file_name(name, ups) for name in names}
    back = rename_autoencoder_to_diffusers(renamed.values())
    if unknown := [name for name, single in renamed.items() if back[single] != name]:
        raise ValueError(f"latent-diffusion's layout has no place for {list_names(unknown)}")
    return {name: f"{AUTOENCODER_PREFIX}{single}" for name, single in renamed.items()}


def update_attention_name(name: str) -> str:
    """Return the current AutoencoderKL name of an attention weight that old diffusers folders call `query`, `key`, …"""
    pattern = r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))$"
    return re.sub(pattern, lambda m: m[1] + OLD_ATTENTION[m[2]] + m[3], name)


def map_autoencoder_from_diffusers(names: Iterable[str]) -> dict[str, Piece]:
    """Return the piece that makes each AutoencoderKL tensor; a file's projections may be linear layers or convolutions."""
    return {name: Piece((name,), turn="matrix" if MATRICES.fullmatch(name) else "") for name in names}


def map_autoencoder_to_single_file(names: Iterable[str]) -> dict[str, Piece]:
    """Return the piece that makes each tensor of a single file from AutoencoderKL's tensors."""
    single = rename_autoencoder_to_single_file(names)
    return {single[n]: Piece((n,), turn="convolution" if MATRICES.fullmatch(n) else "") for n in single}


def infer_autoencoder_config(shapes: Mapping[str, Size]) -> dict[str, object]:
    """Return the arguments of the AutoencoderKL that has tensors of these names and shapes.

    No shape shows the number of normalization groups, which is 32 in all published autoencoders.

    Raises:
        ValueError: the tensors are not those of an autoencoder.
    """
    levels = sorted({int(m[1]) for name in shapes if (m := re.match(r"encoder\.down_blocks\.(\d+)\.", name))})
    last = [shapes.get(f"encoder.down_blocks.{level}.resnets.0.conv2.weight") for level in levels]
    stem, latent = shapes.get("encoder.conv_in.weight"), shapes.get("decoder.conv_in.weight")
    if not levels or None in last or stem is None or latent is None or len(latent) != 4 or len(stem) != 4:
        raise ValueError("it contains no autoencoder: encoder.down_blocks.0, encoder.conv_in or decoder.conv_in is missing")
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
        return f"{match[1]}.mid_block.{AUTOENCODER_MIDDLE[match[2]]}.{_inner(match[3], attention=match[2] == 'attn_1')}"
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.block\.(\d+)\.(.+)", name):
        return f"{match[1]}_blocks.{_level(match[1], match[2], ups)}.resnets.{match[3]}.{_inner(match[4])}"
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.(down|up)sample\.(.+)", name):
        return f"{match[1]}_blocks.{_level(match[1], match[2], ups)}.{match[3]}samplers.0.{match[4]}"
    return name


def _single_file_name(name: str, ups: int) -> str:
    name = re.sub(r"^(encoder|decoder)\.conv_norm_out\.", r"\1.norm_out.", name)
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.((?:resnets|attentions)\.\d)\.(.+)", name):
        place = {new: old for old, new in AUTOENCODER_MIDDLE.items()}.get(match[2], match[2])
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
    """Return the other layout's number of a level.

    latent-diffusion counts the decoder's levels from the image resolution down, diffusers from the latents' resolution up.
    """
    return int(number) if side.startswith("encoder") else ups - 1 - int(number)


def _inner(name: str, *, attention: bool = False) -> str:
    module, _, kind = name.rpartition(".")
    return f"{ATTENTION.get(module, module) if attention else module.replace('nin_shortcut', 'conv_shortcut')}.{kind}"
