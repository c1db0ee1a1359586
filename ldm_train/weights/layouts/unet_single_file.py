"""U-Net names in latent-diffusion's single files (Rombach et al. 2022, arXiv 2112.10752), one for each of diffusers' names.

Single files number all blocks of a side consecutively, including those that change the resolution, below
`model.diffusion_model`; diffusers numbers levels and blocks within a level.
"""

import re
from collections.abc import Iterable, Mapping

from ldm_train.util.text import list_names

UNET_PREFIX = "model.diffusion_model."
AVERAGED = "model_ema."
SINGLE_FILE_OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
SINGLE_FILE_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
BLOCK_NAME = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d)\.(.+)")
UNET_MIDDLE = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}


def rename_unet_to_diffusers(names: Iterable[str]) -> dict[str, str]:
    """Return diffusers' name for each single-file name (without its prefix); names of other layouts map to themselves."""
    names = list(names)
    downs = [
        int(m[2]) for name in names if (m := BLOCK_NAME.fullmatch(name)) and m[1] == "input_blocks" and m[4][:3] == "op."
    ]
    inputs = [int(m[2]) for name in names if (m := BLOCK_NAME.fullmatch(name)) and m[1] == "input_blocks"]
    blocks = min(downs, default=max(inputs, default=1) + 1) - 1
    return {name: _diffusers_name(name, max(blocks, 1)) for name in names}


def rename_unet_to_single_file(names: Iterable[str]) -> dict[str, str]:
    """Return the single-file name, with its prefix, of each of diffusers' names.

    Raises:
        ValueError: a name has no counterpart in single files, or the network has no attention in its middle.
    """
    names = list(names)
    if not any(name.startswith("mid_block.attentions.") for name in names):
        raise ValueError("latent-diffusion's layout has no place for a network with network.middle_attention=false")
    blocks = 1 + max((int(m[1]) for name in names if (m := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name))), default=0)
    attending = {name.split(".")[1] for name in names if re.match(r"up_blocks\.\d+\.attentions\.", name)}
    found = {name: _single_file_name(name, blocks, attending) for name in names}
    if unknown := [name for name, single in found.items() if single is None]:
        raise ValueError(f"latent-diffusion's layout has no place for {list_names(unknown)}")
    return {name: f"{UNET_PREFIX}{single}" for name, single in found.items()}


def format_average_name(name: str) -> str:
    """Return the single-file name of the moving average of a weight, by the weight's own name."""
    return AVERAGED + name.removeprefix("model.").replace(".", "")


def _diffusers_name(name: str, blocks: int) -> str:
    module, _, kind = name.rpartition(".")
    if module in SINGLE_FILE_OUTER:
        return f"{SINGLE_FILE_OUTER[module]}.{kind}"
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", name):
        return f"{UNET_MIDDLE[match[1]]}.{_inner(match[2], residual=match[1] != '1')}"
    if not (match := BLOCK_NAME.fullmatch(name)):
        return name
    side, number, place, inner = match[1], int(match[2]), match[3], match[4]
    if side == "input_blocks":
        level, index = divmod(number - 1, blocks + 1)
        if inner.startswith("op."):
            return f"down_blocks.{level}.downsamplers.0.conv.{inner[3:]}"
    else:
        level, index = divmod(number, blocks + 1)
        if inner.startswith("conv."):
            return f"up_blocks.{level}.upsamplers.0.conv.{inner[5:]}"
    kinds = "resnets" if place == "0" else "attentions"
    return (
        f"{'down' if side == 'input_blocks' else 'up'}_blocks.{level}.{kinds}.{index}.{_inner(inner, residual=place == '0')}"
    )


def _inner(name: str, *, residual: bool) -> str:
    module, _, kind = name.rpartition(".")
    return f"{SINGLE_FILE_RESIDUAL[module]}.{kind}" if residual and module in SINGLE_FILE_RESIDUAL else name


def _single_file_name(name: str, blocks: int, attending: set[str]) -> str | None:
    module, _, kind = name.rpartition(".")
    if module in (outer := _inverse(SINGLE_FILE_OUTER)):
        return f"{outer[module]}.{kind}"
    for own, theirs in UNET_MIDDLE.items():
        if name.startswith(f"{theirs}."):
            inner = _outwards(name.removeprefix(f"{theirs}."), residual=own != "1")
            return inner and f"middle_block.{own}.{inner}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if match is None:
        return None
    side, level, kinds, index, inner = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kinds == "downsamplers":
        return f"input_blocks.{(level + 1) * (blocks + 1)}.0.op.{kind}"
    if kinds == "upsamplers":
        return f"output_blocks.{level * (blocks + 1) + blocks}.{2 if match[2] in attending else 1}.conv.{kind}"
    number = level * (blocks + 1) + index + (1 if side == "down" else 0)
    found = _outwards(inner, residual=kinds == "resnets")
    sides = "input_blocks" if side == "down" else "output_blocks"
    return found and f"{sides}.{number}.{0 if kinds == 'resnets' else 1}.{found}"


def _outwards(name: str, *, residual: bool) -> str | None:
    module, _, kind = name.rpartition(".")
    if not residual:
        return name
    return f"{_inverse(SINGLE_FILE_RESIDUAL)[module]}.{kind}" if module in SINGLE_FILE_RESIDUAL.values() else None


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}
