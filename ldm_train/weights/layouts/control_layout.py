"""ControlNet names in diffusers' ControlNetModel: its weights become those of a `ControlBranch` and back, bit for bit.

The copied half of the U-Net has the U-Net's names in both, so `unet_layout`'s table of the whole U-Net says them.
"""

from collections.abc import Iterable, Mapping, Sequence

from ldm_train.util.safe_json import Json
from ldm_train.weights.layouts.unet_layout import map_unet_from_diffusers, map_unet_to_diffusers
from ldm_train.weights.tensor_mapping import Piece

OWN_PARTS = {
    "hint": "controlnet_cond_embedding",
    "zero_down": "controlnet_down_blocks",
    "zero_middle": "controlnet_mid_block",
}
UNET_ONLY = {"center_input_sample", "dropout", "out_channels", "sample_size", "up_block_types"}  # of the config


def build_control_config(unet: Mapping[str, Json], *, channels: int, widths: Sequence[int]) -> dict[str, Json]:
    """Return the content of a ControlNetModel's `config.json`.

    Args:
        unet: the `config.json` of the network that it was trained on, without a vector.
        channels: C of the map.
        widths: of the hint encoder.
    """
    shared = {name: value for name, value in unet.items() if name not in UNET_ONLY}
    return {
        **shared,
        "_class_name": "ControlNetModel",
        "conditioning_channels": channels,
        "conditioning_embedding_out_channels": [*widths],
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": False,
    }


def map_control_from_diffusers(ours: Iterable[str], network: Iterable[str]) -> dict[str, Piece]:
    """Return the piece that makes each tensor of a ControlNet from those in diffusers' layout.

    Args:
        network: the names of the U-Net's tensors, with its way up.
    """
    copied = map_unet_from_diffusers(network, ())
    return {name: copied[name] if name in copied else Piece((rename_own_part(name),)) for name in ours}


def map_control_to_diffusers(ours: Iterable[str], network: Iterable[str], *, linear_projection: bool) -> dict[str, Piece]:
    """Return the piece that makes each of diffusers' tensors from a ControlNet's; arguments as of the U-Net's table."""
    names = {*ours}
    copied = map_unet_to_diffusers(network, linear_projection=linear_projection)
    table = {theirs: piece for theirs, piece in copied.items() if names.issuperset(piece.names)}
    taken = {name for piece in table.values() for name in piece.names}
    return table | {rename_own_part(name): Piece((name,)) for name in sorted(names - taken)}


def rename_own_part(name: str) -> str:
    """Return diffusers' name of a tensor that the U-Net has no counterpart of."""
    part, _, rest = name.partition(".")
    return f"{OWN_PARTS[part]}.{rest}"
