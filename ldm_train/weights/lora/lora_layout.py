"""Low-rank adapters by the names of diffusers (PEFT's) and of kohya's scripts, and back; dict to dict.

Ours have one layer for keys and values, and one for queries, keys and values in the text encoder, where theirs have several:
of ours each of theirs gets the same A and its rows of B, bit for bit. Of theirs, where every A is another one, ours gets all
of them below one another, and a B of blocks: of a higher rank, and the same sum.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Size, Tensor

from ldm_train.weights.layouts.unet_layout import Names, their_names
from ldm_train.weights.lora.lora_names import NETWORK, TEXT, with_our_ends
from ldm_train.weights.lora.low_rank import ALPHA, DOWN, MAGNITUDE, UP, Layer, layers, tensors

TEXT_LAYER = re.compile(
    r"tower\.transformer\.resblocks\.(\d+)\.(attn\.in_proj|attn\.out_proj|mlp\.c_fc|mlp\.c_proj)[._]weight"
)
TEXT_LAYERS: dict[str, Names] = {
    "attn.in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.out_proj": ("self_attn.out_proj",),
    "mlp.c_fc": ("mlp.fc1",),
    "mlp.c_proj": ("mlp.fc2",),
}
PROJECTIONS = (".proj_in", ".proj_out")  # 1x1 convolutions there where `use_linear_projection` is false
KOHYA_ENDS = {DOWN: ".lora_down.weight", UP: ".lora_up.weight", ALPHA: ".alpha", MAGNITUDE: ".dora_scale"}


def from_theirs(
    state: Mapping[str, Tensor], like: Mapping[str, Tensor], *, told: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """An adapter in diffusers' or kohya's layout under our names.

    Args:
        like: all weights of a run, with `network.` or `text_encoder.` before each name; meta tensors will do.
        told: diffusers' settings beside the tensors, which give alpha.

    Raises:
        ValueError: a layer that there is not, or half a pair.
    """
    table = their_layers(like)
    ours_of = {name: ours for ours, names in table.items() for name in names}
    ours_of |= {kohya_name(name): ours for name, ours in ours_of.items()}
    found = layers(with_our_ends(state, known=ours_of))
    grouped: dict[str, dict[str, Layer]] = {}
    for name, layer in found.items():
        grouped.setdefault(ours_of[name], {})[name] = _with_alpha(name, layer, told)
    joined = {}
    for ours, given in grouped.items():
        names = table[ours] if set(given) <= set(table[ours]) else tuple(map(kohya_name, table[ours]))
        weight = next(like[ours + end] for end in (".weight", "_weight") if ours + end in like)
        shape = Size((len(weight) // len(names), *weight.shape[1:]))
        fitting = {name: _fitting(name, layer, shape) for name, layer in given.items()}
        joined[ours] = join([fitting.get(name) for name in names], shape[0])
    return tensors(joined)


def to_diffusers(
    adapter: Mapping[str, Tensor], like: Mapping[str, Tensor], *, linear_projection: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Our adapter under diffusers' names, and the settings that belong beside it as JSON under `lora_adapter_metadata`.

    Args:
        like: as above.
        linear_projection: diffusers' `use_linear_projection`: True for Stable Diffusion 2.x, False for 1.x.

    Raises:
        ValueError: an adapter of a layer that diffusers' layout has no place for.
    """
    parts = _split(adapter, like, linear_projection=linear_projection)
    state = {name: tensor for name, tensor in tensors(parts).items() if not name.endswith(ALPHA)}
    return state, _settings(parts, "unet.") | _settings(parts, "text_encoder.")


def to_kohya(adapter: Mapping[str, Tensor], like: Mapping[str, Tensor], *, linear_projection: bool) -> dict[str, Tensor]:
    """Our adapter as kohya's scripts and the web UIs name it."""
    parts = _split(adapter, like, linear_projection=linear_projection)
    found = {}
    for name, tensor in tensors(parts).items():
        end = next(end for end in KOHYA_ENDS if name.endswith(end))
        shown = tensor.flatten()[:, None] if end == MAGNITUDE else tensor
        found[kohya_name(name.removesuffix(end)) + KOHYA_ENDS[end]] = shown
    return found


def their_layers(like: Mapping[str, Tensor]) -> dict[str, Names]:
    """Our layers' names to diffusers' one or several.

    Raises:
        ValueError: the network has no counterpart in diffusers.
    """
    network = [name.removeprefix(NETWORK) for name in like if name.startswith(NETWORK)]
    theirs = {name: (name.removeprefix("unet."),) for name in network if name.startswith("unet.")}  # diffusers' own network
    found: dict[str, Names] = {}
    for ours, names in (theirs or (their_names(network) if network else {})).items():
        if ours.endswith(".weight"):
            found[NETWORK + ours.removesuffix(".weight")] = tuple("unet." + name.removesuffix(".weight") for name in names)
    for name in like:
        if place := TEXT_LAYER.fullmatch(name.removeprefix(TEXT)):
            layer = f"text_encoder.text_model.encoder.layers.{place[1]}."
            found[re.sub(r"[._]weight$", "", name)] = tuple(layer + part for part in TEXT_LAYERS[place[2]])
    return found


def kohya_name(name: str) -> str:
    return re.sub(r"^unet\.", "lora_unet_", re.sub(r"^text_encoder\.", "lora_te_", name)).replace(".", "_")


def split(layer: Layer, count: int) -> list[Layer]:
    """The adapters of so many layers whose weights, one below another, are this layer's."""
    magnitudes = [None] * count if layer.magnitude is None else [part.clone() for part in layer.magnitude.chunk(count)]
    return [
        Layer(layer.down.clone(), up.clone(), layer.alpha, magnitude)  # a file holds no memory twice
        for up, magnitude in zip(layer.up.chunk(count), magnitudes, strict=True)
    ]


def join(parts: Sequence[Layer | None], rows: int) -> Layer:
    """`split` undone, and of any adapters of layers with so many rows each; None for a layer without one.

    Raises:
        ValueError: DoRA of some of the layers alone.
    """
    given = [part for part in parts if part is not None]
    magnitudes = [part.magnitude for part in given if part.magnitude is not None]
    if magnitudes and len(magnitudes) < len(parts):
        raise ValueError("DoRA of a part of the queries, keys and values alone cannot be joined into one layer")
    magnitude = torch.cat([one.flatten() for one in magnitudes]) if magnitudes else None
    first = given[0]
    if len(given) == len(parts) and all(one.alpha == first.alpha and torch.equal(one.down, first.down) for one in given):
        return Layer(first.down, torch.cat([one.up for one in given]), first.alpha, magnitude)
    factors = [one.alpha / one.rank for one in given]
    alike = all(factor == factors[0] for factor in factors)  # then the factor can stay outside, and all is exact
    rank = sum(one.rank for one in given)
    dtypes = [one.up.dtype for one in given] + ([] if alike else [torch.float32])
    dtype = reduce(torch.promote_types, dtypes)  # so that no factor is rounded to float16
    up, column = first.up.new_zeros(rows * len(parts), rank, *first.up.shape[2:], dtype=dtype), 0
    for number, part in enumerate(parts):
        if part is not None:
            factor = 1.0 if alike else part.alpha / part.rank
            up[number * rows : (number + 1) * rows, column : column + part.rank] = part.up.to(dtype) * factor
            column += part.rank
    return Layer(torch.cat([one.down for one in given]), up, rank * (factors[0] if alike else 1.0), magnitude)


def _split(adapter: Mapping[str, Tensor], like: Mapping[str, Tensor], *, linear_projection: bool) -> dict[str, Layer]:
    table, found = their_layers(like), {}
    for ours, layer in layers(adapter).items():
        if ours not in table:
            raise ValueError(f"diffusers' layout has no place for an adapter of {ours}")
        for name, part in zip(table[ours], split(layer, len(table[ours])), strict=True):
            found[name] = _as_theirs(part, projection=name.endswith(PROJECTIONS) and not linear_projection)
    return found


def _as_theirs(layer: Layer, *, projection: bool) -> Layer:
    """With the shapes of a convolution's adapter, where the layer is one there."""
    down, up, magnitude = layer.down, layer.up, layer.magnitude
    if projection and down.ndim == 2:
        down, up = down[:, :, None, None], up[:, :, None, None]
    if magnitude is not None and down.ndim > 2:
        magnitude = magnitude[None, :, None, None]
    return Layer(down, up, layer.alpha, magnitude)


def _fitting(name: str, layer: Layer, shape: Size) -> Layer:
    """An adapter of a weight of this shape; that of a 1x1 convolution as one of the linear layer that it is here.

    Raises:
        ValueError: it is one of another shape.
    """
    if len(shape) == 2 and layer.down.shape[2:] == (1, 1):
        layer = Layer(layer.down.flatten(1), layer.up.flatten(1), layer.alpha, layer.magnitude)
    if (found := (len(layer.up), *layer.down.shape[1:])) != shape:
        raise ValueError(f"{name} is an adapter of a weight of shape {found}, which is {tuple(shape)} here")
    return layer


def _with_alpha(name: str, layer: Layer, told: Mapping[str, Any] | None) -> Layer:
    """With the alpha that diffusers' settings tell, for which the tensors have no place."""
    prefix = name.partition(".")[0] + "."
    own = {key.removeprefix(prefix): value for key, value in (told or {}).items() if key.startswith(prefix)}
    if "lora_alpha" not in own:
        return layer
    patterns, module = own.get("alpha_pattern") or {}, name.removeprefix(prefix)
    try:
        alpha = next((a for key, a in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), own["lora_alpha"])
        if not math.isfinite(alpha):
            raise ValueError(f"{alpha} is not finite")
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise ValueError(f"its settings beside the tensors give no alpha for {name}: {error}") from error
    return Layer(layer.down, layer.up, alpha * (layer.rank**0.5 if own.get("use_rslora") else 1), layer.magnitude)


def _settings(parts: Mapping[str, Layer], prefix: str) -> dict[str, Any]:
    """PEFT's settings of the adapters below a prefix, each setting's name with it."""
    # Without the prefix that some versions of transformers have and others have not.
    own = {name.removeprefix(prefix).removeprefix("text_model."): parts[name] for name in parts if name.startswith(prefix)}
    if not own:
        return {}
    first = next(iter(own.values()))
    settings = {
        "r": first.rank,
        "lora_alpha": first.alpha,
        "rank_pattern": {name: layer.rank for name, layer in own.items() if layer.rank != first.rank},
        "alpha_pattern": {name: layer.alpha for name, layer in own.items() if layer.alpha != first.alpha},
        "target_modules": sorted(own),
        "use_dora": first.magnitude is not None,
    }
    return {prefix + name: value for name, value in settings.items()}
