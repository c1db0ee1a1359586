"""U-Net names in diffusers' UNet2DConditionModel: its weights become those of a `UNet` and back, bit for bit.

diffusers' network is a `UNet` with `extra_up_block=True` and `patch_size=1`, whose `scale_shift` it calls
`resnet_time_scale_shift`. Differences in the weights:
- diffusers numbers levels and their blocks. A `UNet` has one flat list for each side, in which a level is as long as
  its blocks and the convolution that changes the resolution.
- diffusers stores keys and values separately, a `UNet` as one weight.
- diffusers' transformers may project by 1x1 convolutions instead of linear layers.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ldm_train.util.text import list_names
from ldm_train.weights.tensor_mapping import Piece, check_shapes, get_shapes

Names = tuple[str, ...]

UNET_OUTER = {
    "conv_in": "conv_in",
    "time.linear_1": "time_embedding.linear_1",
    "time.linear_2": "time_embedding.linear_2",
    "vector": "class_embedding",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
UNET_RESIDUAL = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "embedding": "time_emb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "shortcut": "conv_shortcut",
}
TRANSFORMER: dict[str, Names] = {
    "norm": ("norm",),
    "proj_in": ("proj_in",),
    "norm_self": ("transformer_blocks.0.norm1",),
    "self_attention.to_q": ("transformer_blocks.0.attn1.to_q",),
    "self_attention.to_kv": ("transformer_blocks.0.attn1.to_k", "transformer_blocks.0.attn1.to_v"),
    "self_attention.to_out": ("transformer_blocks.0.attn1.to_out.0",),
    "norm_cross": ("transformer_blocks.0.norm2",),
    "cross_attention.to_q": ("transformer_blocks.0.attn2.to_q",),
    "cross_attention.to_kv": ("transformer_blocks.0.attn2.to_k", "transformer_blocks.0.attn2.to_v"),
    "cross_attention.to_out": ("transformer_blocks.0.attn2.to_out.0",),
    "norm_feed": ("transformer_blocks.0.norm3",),
    "feed_forward.to_hidden": ("transformer_blocks.0.ff.net.0.proj",),
    "feed_forward.to_out": ("transformer_blocks.0.ff.net.2",),
    "proj_out": ("proj_out",),
}
PROJECTIONS = ("proj_in.weight", "proj_out.weight")
NOISE_LEVELS = "class_embedding.weight"


def convert_unet_from_diffusers(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a `UNet`'s weights made from diffusers'.

    Args:
        like: the `state_dict()` of the `UNet`, for its names and shapes; meta tensors are enough.

    Raises:
        ValueError: weights are missing, unexpected or of another shape, or diffusers has no such network.
    """
    table = map_unet_from_diffusers(like, state)
    check_shapes(table, get_shapes(state), get_shapes(like))
    return {ours: piece(state) for ours, piece in table.items()}


def convert_unet_to_diffusers(
    state: Mapping[str, Tensor], like: Mapping[str, Tensor], *, linear_projection: bool, noise_levels: bool = False
) -> dict[str, Tensor]:
    """Return diffusers' weights made from a `UNet`'s.

    Args:
        like: the `state_dict()` of the `UNet`, for its names and shapes; meta tensors are enough.
        linear_projection: diffusers' `use_linear_projection`: True for Stable Diffusion 2.x, False for 1.x.
        noise_levels: whether the vector is one of `num_class_embeds` noise levels, as in the x4 upscaler, and no projection.

    Raises:
        ValueError: weights are missing, unexpected or of another shape, or diffusers has no such network.
    """
    table = map_unet_to_diffusers(like, linear_projection=linear_projection, noise_levels=noise_levels)
    same = {name: Piece((name,)) for name in like}
    check_shapes(same, get_shapes(state), get_shapes(like))
    return {theirs: piece(state).clone() for theirs, piece in table.items()}


def map_unet_from_diffusers(ours: Iterable[str], theirs: Iterable[str]) -> dict[str, Piece]:
    """Return the piece that makes each tensor of a `UNet` from those that a file in diffusers' layout contains.

    A class embedding without bias is a table with a row for each noise level: here a linear layer of one-hot vectors.
    """
    table = {
        name: Piece(names, turn="matrix" if name.endswith(PROJECTIONS) else "")
        for name, names in list_diffusers_names(ours).items()
    }
    there = set(theirs)
    if "vector.weight" in table and "class_embedding.bias" not in there and NOISE_LEVELS in there:
        table |= {
            "vector.weight": Piece((NOISE_LEVELS,), turn="transposed"),
            "vector.bias": Piece((NOISE_LEVELS,), turn="zeros"),
        }
    return table


def map_unet_to_diffusers(ours: Iterable[str], *, linear_projection: bool, noise_levels: bool = False) -> dict[str, Piece]:
    """Return the piece that makes each of diffusers' tensors from a `UNet`'s; see `convert_unet_to_diffusers`."""
    table = {}
    for name, names in list_diffusers_names(ours).items():
        for number, theirs in enumerate(names):
            convolution = theirs.endswith(PROJECTIONS) and not linear_projection
            table[theirs] = Piece((name,), (number, len(names)), "convolution" if convolution else "")
    if noise_levels:
        del table["class_embedding.bias"]
        table[NOISE_LEVELS] = Piece(("vector.weight", "vector.bias"), turn="table")
    return table


def list_diffusers_names(ours: Iterable[str]) -> dict[str, Names]:
    """Return diffusers' name for each of a `UNet`'s, or the two whose tensors a `UNet` concatenates.

    Raises:
        ValueError: diffusers has no such network.
    """
    ours = list(ours)
    unknown = [name for name in ours if not _is_known(name)]
    if unknown:
        raise ValueError(f"diffusers' layout has no place for {list_names(unknown)}: these are not names of a UNet")
    places = {side: {int(name.split(".")[1]) for name in ours if name.startswith(side)} for side in ("down.", "up.")}
    halvings = [int(name.split(".")[1]) for name in ours if name.startswith("down.") and name.count(".") == 2]
    blocks = min(halvings, default=len(places["down."]))
    levels = (len(places["down."]) + 1) // (blocks + 1)
    if len(places["up."]) != levels * (blocks + 2) - 1:
        raise ValueError("diffusers' layout has no place for a network with network.extra_up_block=false")
    return {name: _their_name(name, blocks) for name in ours}


def _their_name(name: str, blocks: int) -> Names:
    module, _, kind = name.rpartition(".")
    if module in UNET_OUTER:
        return (f"{UNET_OUTER[module]}.{kind}",)
    side, place, *rest = module.split(".")
    if side == "middle":
        level, index = "mid_block", int(place)
    else:
        number, index = divmod(int(place), blocks + (1 if side == "down" else 2))
        level = f"{side}_blocks.{number}"
    if not rest:
        return (f"{level}.{side}samplers.0.conv.{kind}",)
    if rest[0] == "residual":
        return (f"{level}.resnets.{index}.{UNET_RESIDUAL[rest[1]]}.{kind}",)
    return tuple(f"{level}.attentions.{index}.{part}.{kind}" for part in TRANSFORMER[".".join(rest[1:])])


def _is_known(name: str) -> bool:
    module = name.rpartition(".")[0]
    place = re.fullmatch(r"(?:down|middle|up)\.\d+(?:\.residual\.(.+)|\.transformer\.(.+))?", module)
    if place is None:
        return module in UNET_OUTER
    residual, transformer = place.groups()
    return (residual is None or residual in UNET_RESIDUAL) and (transformer is None or transformer in TRANSFORMER)
