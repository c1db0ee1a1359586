"""Names of tensors in files of low-rank adapters: recognize the layout, and rename each layer's pair of matrices."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from torch import Tensor

from ldm_train.util.text import list_names
from ldm_train.weights.lora.low_rank import ALPHA, DOWN, MAGNITUDE, UP

LoraLayout = Literal["ours", "diffusers", "kohya"]

NETWORK_PREFIX, TEXT_PREFIX = "network.", "text_encoder."
# The ends of names in all layouts, three of which diffusers used over time, to those of this package.
PAIR_ENDS = {
    **dict.fromkeys((".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight", ".lora_down.weight"), DOWN),
    **dict.fromkeys((".lora_B.weight", ".lora.up.weight", ".lora_linear_layer.up.weight", ".lora_up.weight"), UP),
    **dict.fromkeys((".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".dora_scale"), MAGNITUDE),
    ".alpha": ALPHA,
}
XL = ("lora_te1_", "lora_te2_", "text_encoder_2.")


def recognize_lora_layout(names: Sequence[str]) -> LoraLayout:
    """Return the layout of an adapter with tensors of these names.

    Raises:
        ValueError: the names belong to no supported layout.
    """
    if names and all(name.startswith(("lora_unet_", "lora_te_")) for name in names):
        return "kohya"
    if names and all(name.startswith(("unet.", "text_encoder.text_model.", "text_encoder.encoder.")) for name in names):
        return "diffusers"
    if names and all(name.startswith((NETWORK_PREFIX, TEXT_PREFIX)) for name in names):
        return "ours"
    if xl := sorted(name for name in names if name.startswith(XL)):
        raise ValueError(
            f"it is a LoRA of Stable Diffusion XL, which is not supported ({list_names(xl, most=2)}); use one of 1.x or 2.x"
        )
    raise ValueError(
        f"its tensors ({list_names(sorted(names), most=2) or 'none'}) are not those of a LoRA of a U-Net or text encoder in "
        "the layout of ldm-train, diffusers (unet.….lora_A.weight) or kohya's scripts (lora_unet_….lora_down.weight)"
    )


def rename_pairs(state: Mapping[str, Tensor], *, known: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors under their layer's name and this package's end, such as `.lora_A.weight`.

    Args:
        known: the layers' names, in the layout of the file.

    Raises:
        ValueError: a layer is not known, a tensor belongs to another method than LoRA, or a weight is there twice.
    """
    found: dict[str, Tensor] = {}
    others, unknown, twice = [], [], []
    for name, tensor in state.items():
        end = max((end for end in PAIR_ENDS if name.endswith(end)), key=len, default="")
        layer = name.removesuffix(end)
        if layer.startswith("text_encoder.encoder."):  # recent versions of transformers leave out `text_model.`
            layer = layer.replace("text_encoder.", "text_encoder.text_model.", 1)
        columns = end == ".dora_scale" and tensor.shape[:1] != (tensor.numel(),)  # norms of columns instead of rows
        if not end or columns:
            others.append(name)
        elif layer not in known:
            unknown.append(name)
        elif layer + PAIR_ENDS[end] in found:
            twice.append(name)
        else:
            found[layer + PAIR_ENDS[end]] = tensor
    if others:
        raise ValueError(
            f"it contains more than LoRA's matrices and DoRA's norms of rows: {list_names(sorted(others), most=3)}. Other "
            "methods (LoHa, LoKr, lora_mid, full differences, DoRA of columns) are not supported: merge it into a "
            "model with the tool that made it, and load the model"
        )
    if unknown:
        raise ValueError(f"this run's network and text encoder have no layers {list_names(sorted(unknown), most=3)}")
    if twice:
        raise ValueError(f"it contains the same weight under two names: {list_names(sorted(twice), most=3)}")
    return found
