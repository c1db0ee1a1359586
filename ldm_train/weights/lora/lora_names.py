"""How files of low-rank adapters name their tensors: whose layout it is, and which part of a layer's pair each is."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from torch import Tensor

from ldm_train.util.text import list_names
from ldm_train.weights.lora.low_rank import ALPHA, DOWN, MAGNITUDE, UP

Layout = Literal["ours", "diffusers", "kohya"]

NETWORK, TEXT = "network.", "text_encoder."
# What the parts of a pair are called; diffusers' have had three names.
ENDS = {
    **dict.fromkeys((".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight", ".lora_down.weight"), DOWN),
    **dict.fromkeys((".lora_B.weight", ".lora.up.weight", ".lora_linear_layer.up.weight", ".lora_up.weight"), UP),
    **dict.fromkeys((".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".dora_scale"), MAGNITUDE),
    ".alpha": ALPHA,
}
XL = ("lora_te1_", "lora_te2_", "text_encoder_2.")


def layout_of(names: Sequence[str]) -> Layout:
    """Told from the names alone.

    Raises:
        ValueError: they are of none of the layouts.
    """
    if names and all(name.startswith(("lora_unet_", "lora_te_")) for name in names):
        return "kohya"
    if names and all(name.startswith(("unet.", "text_encoder.text_model.", "text_encoder.encoder.")) for name in names):
        return "diffusers"
    if names and all(name.startswith((NETWORK, TEXT)) for name in names):
        return "ours"
    if xl := sorted(name for name in names if name.startswith(XL)):
        raise ValueError(
            f"it is a LoRA of Stable Diffusion XL, whose two text encoders are not here: {list_names(xl, most=2)}"
        )
    raise ValueError(
        f"its tensors, such as {', '.join(sorted(names)[:2]) or 'none'}, are not named as a LoRA of a U-Net and its text "
        "encoder is by this project, diffusers (unet.….lora_A.weight) or kohya's scripts (lora_unet_….lora_down.weight)"
    )


def with_our_ends(state: Mapping[str, Tensor], *, known: Collection[str]) -> dict[str, Tensor]:
    """The tensors of pairs under their layers' names with our ends.

    Args:
        known: layers' names.

    Raises:
        ValueError: a layer that is not known, what is no LoRA, or the same twice.
    """
    found: dict[str, Tensor] = {}
    others, unknown, twice = [], [], []
    for name, tensor in state.items():
        end = max((end for end in ENDS if name.endswith(end)), key=len, default="")
        layer = name.removesuffix(end)
        if layer.startswith("text_encoder.encoder."):  # as recent versions of transformers have it
            layer = layer.replace("text_encoder.", "text_encoder.text_model.", 1)
        columns = end == ".dora_scale" and tensor.shape[:1] != (tensor.numel(),)  # lengths of columns, which DoRA has not
        if not end or columns:
            others.append(name)
        elif layer not in known:
            unknown.append(name)
        elif layer + ENDS[end] in found:
            twice.append(name)
        else:
            found[layer + ENDS[end]] = tensor
    if others:
        raise ValueError(
            f"it holds more than pairs of LoRA's matrices and DoRA's lengths of rows: {list_names(sorted(others), most=3)}; "
            "other methods (LoHa, LoKr, lora_mid, whole differences, DoRA of columns) are not read: merge it into a model "
            "with the tool that made it, and load that"
        )
    if unknown:
        raise ValueError(f"there is no place in this network and text encoder for {list_names(sorted(unknown), most=3)}")
    if twice:
        raise ValueError(f"it holds the same weight under two names: {list_names(sorted(twice), most=3)}")
    return found
