"""Convert low-rank adapters from and to the names of diffusers (PEFT) and of kohya's scripts.

This package has one layer for keys and values (in the text encoder for queries, keys and values) where the others have one
for each. On the way out, each of them gets the same A and its rows of B, bit for bit. On the way in their As differ, so the
joined layer gets all As stacked and a block-diagonal B: of a higher rank, with the same product.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Size, Tensor

from ldm_train.weights.layouts.unet_layout import Names, list_diffusers_names
from ldm_train.weights.lora.lora_names import NETWORK_PREFIX, TEXT_PREFIX, rename_pairs
from ldm_train.weights.lora.low_rank import ALPHA, DOWN, MAGNITUDE, UP, LowRankLayer, flatten_layers, group_layers

TEXT_LAYER = re.compile(
    r"tower\.transformer\.resblocks\.(\d+)\.(attn\.in_proj|attn\.out_proj|mlp\.c_fc|mlp\.c_proj)[._]weight"
)
TEXT_LAYERS: dict[str, Names] = {
    "attn.in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.out_proj": ("self_attn.out_proj",),
    "mlp.c_fc": ("mlp.fc1",),
    "mlp.c_proj": ("mlp.fc2",),
}
PROJECTION_LAYERS = (".proj_in", ".proj_out")  # 1x1 convolutions in diffusers if `use_linear_projection` is false
KOHYA_ENDS = {DOWN: ".lora_down.weight", UP: ".lora_up.weight", ALPHA: ".alpha", MAGNITUDE: ".dora_scale"}


def import_adapter(
    state: Mapping[str, Tensor], like: Mapping[str, Tensor], *, settings: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Return an adapter in diffusers' or kohya's layout under this package's names.

    Args:
        like: all weights of a run, by names that start with `network.` or `text_encoder.`; meta tensors are enough.
        settings: PEFT's settings from the file's metadata, which contain alpha.

    Raises:
        ValueError: a layer that the run does not have, or only one matrix of a pair.
    """
    table = map_layer_names(like)
    ours_of = {name: ours for ours, names in table.items() for name in names}
    ours_of |= {format_kohya_name(name): ours for name, ours in ours_of.items()}
    found = group_layers(rename_pairs(state, known=ours_of))
    grouped: dict[str, dict[str, LowRankLayer]] = {}
    for name, layer in found.items():
        grouped.setdefault(ours_of[name], {})[name] = _with_alpha(name, layer, settings or {})
    joined = {}
    for ours, given in grouped.items():
        names = table[ours] if set(given) <= set(table[ours]) else tuple(map(format_kohya_name, table[ours]))
        weight = next(like[ours + end] for end in (".weight", "_weight") if ours + end in like)
        shape = Size((len(weight) // len(names), *weight.shape[1:]))
        fitting = {name: _fitting(name, layer, shape) for name, layer in given.items()}
        joined[ours] = join_layers([fitting.get(name) for name in names], shape[0])
    return flatten_layers(joined)


def export_adapter_to_diffusers(
    adapter: Mapping[str, Tensor], like: Mapping[str, Tensor], *, linear_projection: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an adapter under diffusers' names, and PEFT's settings for the file's metadata (`lora_adapter_metadata`).

    Args:
        like: as in `import_adapter`.
        linear_projection: diffusers' `use_linear_projection`: True for Stable Diffusion 2.x, False for 1.x.

    Raises:
        ValueError: diffusers has no counterpart of a layer.
    """
    parts = _split(adapter, like, linear_projection=linear_projection)
    state = {name: tensor for name, tensor in flatten_layers(parts).items() if not name.endswith(ALPHA)}
    return state, _settings(parts, "unet.") | _settings(parts, "text_encoder.")


def export_adapter_to_kohya(
    adapter: Mapping[str, Tensor], like: Mapping[str, Tensor], *, linear_projection: bool
) -> dict[str, Tensor]:
    """Return an adapter under the names of kohya's scripts and the web UIs; see `export_adapter_to_diffusers`."""
    parts = _split(adapter, like, linear_projection=linear_projection)
    found = {}
    for name, tensor in flatten_layers(parts).items():
        end = next(end for end in KOHYA_ENDS if name.endswith(end))
        tensor = tensor.flatten()[:, None] if end == MAGNITUDE else tensor
        found[format_kohya_name(name.removesuffix(end)) + KOHYA_ENDS[end]] = tensor
    return found


def map_layer_names(like: Mapping[str, Tensor]) -> dict[str, Names]:
    """Return diffusers' name, or several, for each layer of a run's weights.

    Raises:
        ValueError: diffusers has no such network.
    """
    network = [name.removeprefix(NETWORK_PREFIX) for name in like if name.startswith(NETWORK_PREFIX)]
    theirs = {name: (name.removeprefix("unet."),) for name in network if name.startswith("unet.")}  # diffusers' own network
    found: dict[str, Names] = {}
    for ours, names in (theirs or (list_diffusers_names(network) if network else {})).items():
        if ours.endswith(".weight"):
            found[NETWORK_PREFIX + ours.removesuffix(".weight")] = tuple(
                "unet." + name.removesuffix(".weight") for name in names
            )
    for name in like:
        if place := TEXT_LAYER.fullmatch(name.removeprefix(TEXT_PREFIX)):
            layer = f"text_encoder.text_model.encoder.layers.{place[1]}."
            found[re.sub(r"[._]weight$", "", name)] = tuple(layer + part for part in TEXT_LAYERS[place[2]])
    return found


def format_kohya_name(name: str) -> str:
    """Return kohya's name of a layer by diffusers' name."""
    return re.sub(r"^unet\.", "lora_unet_", re.sub(r"^text_encoder\.", "lora_te_", name)).replace(".", "_")


def split_layer(layer: LowRankLayer, count: int) -> list[LowRankLayer]:
    """Split a layer whose weight is `count` weights stacked into the adapters of these weights."""
    magnitudes = [None] * count if layer.magnitude is None else [part.clone() for part in layer.magnitude.chunk(count)]
    return [
        LowRankLayer(layer.down.clone(), up.clone(), layer.alpha, magnitude)  # safetensors refuses shared memory
        for up, magnitude in zip(layer.up.chunk(count), magnitudes, strict=True)
    ]


def join_layers(parts: Sequence[LowRankLayer | None], rows: int) -> LowRankLayer:
    """Join adapters of weights that are stacked into one, the reverse of `split_layer`; adapters may differ.

    Args:
        parts: None for a weight without adapter.
        rows: of each weight.

    Raises:
        ValueError: only some of the adapters are DoRA.
    """
    given = [part for part in parts if part is not None]
    magnitudes = [part.magnitude for part in given if part.magnitude is not None]
    if magnitudes and len(magnitudes) < len(parts):
        raise ValueError(
            "DoRA of only some of the queries, keys and values of a layer cannot be loaded; merge it into a model"
        )
    magnitude = torch.cat([one.flatten() for one in magnitudes]) if magnitudes else None
    first = given[0]
    if len(given) == len(parts) and all(one.alpha == first.alpha and torch.equal(one.down, first.down) for one in given):
        return LowRankLayer(first.down, torch.cat([one.up for one in given]), first.alpha, magnitude)
    factors = [one.alpha / one.rank for one in given]
    alike = all(factor == factors[0] for factor in factors)  # then it stays in alpha, and B is exact
    rank = sum(one.rank for one in given)
    dtypes = [one.up.dtype for one in given] + ([] if alike else [torch.float32])
    dtype = reduce(torch.promote_types, dtypes)  # factors in B must not be rounded to float16
    up, column = first.up.new_zeros(rows * len(parts), rank, *first.up.shape[2:], dtype=dtype), 0
    for number, part in enumerate(parts):
        if part is not None:
            factor = 1.0 if alike else part.alpha / part.rank
            up[number * rows : (number + 1) * rows, column : column + part.rank] = part.up.to(dtype) * factor
            column += part.rank
    return LowRankLayer(torch.cat([one.down for one in given]), up, rank * (factors[0] if alike else 1.0), magnitude)


def _split(adapter: Mapping[str, Tensor], like: Mapping[str, Tensor], *, linear_projection: bool) -> dict[str, LowRankLayer]:
    table, found = map_layer_names(like), {}
    for ours, layer in group_layers(adapter).items():
        if ours not in table:
            raise ValueError(f"diffusers has no counterpart of {ours}, which this run has an adapter of")
        for name, part in zip(table[ours], split_layer(layer, len(table[ours])), strict=True):
            found[name] = _shape_for_diffusers(part, projection=name.endswith(PROJECTION_LAYERS) and not linear_projection)
    return found


def _shape_for_diffusers(layer: LowRankLayer, *, projection: bool) -> LowRankLayer:
    """Return an adapter in the shapes of a 1x1 convolution's if it is a projection that diffusers has as one."""
    down, up, magnitude = layer.down, layer.up, layer.magnitude
    if projection and down.ndim == 2:
        down, up = down[:, :, None, None], up[:, :, None, None]
    if magnitude is not None and down.ndim > 2:
        magnitude = magnitude[None, :, None, None]
    return LowRankLayer(down, up, layer.alpha, magnitude)


def _fitting(name: str, layer: LowRankLayer, shape: Size) -> LowRankLayer:
    """Return an adapter for a weight of this shape; that of a 1x1 convolution becomes that of the linear layer used here.

    Raises:
        ValueError: the adapter belongs to a weight of another shape.
    """
    if len(shape) == 2 and layer.down.shape[2:] == (1, 1):
        layer = LowRankLayer(layer.down.flatten(1), layer.up.flatten(1), layer.alpha, layer.magnitude)
    if (found := (len(layer.up), *layer.down.shape[1:])) != shape:
        raise ValueError(
            f"{name} is an adapter of a weight of shape {found}; the shape of this run's weight is {tuple(shape)}"
        )
    return layer


def _with_alpha(name: str, layer: LowRankLayer, settings: Mapping[str, Any]) -> LowRankLayer:
    """Return the layer with the alpha in PEFT's settings; diffusers' tensors don't contain one."""
    prefix = name.partition(".")[0] + "."
    own = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
    if "lora_alpha" not in own:
        return layer
    patterns, module = own.get("alpha_pattern") or {}, name.removeprefix(prefix)
    try:
        alpha = next((a for key, a in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), own["lora_alpha"])
        if not math.isfinite(alpha):
            raise ValueError(f"{alpha} is not finite")
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise ValueError(f"the settings in its metadata have no valid alpha for {name}: {error}") from error
    return LowRankLayer(layer.down, layer.up, alpha * (layer.rank**0.5 if own.get("use_rslora") else 1), layer.magnitude)


def _settings(parts: Mapping[str, LowRankLayer], prefix: str) -> dict[str, Any]:
    """Return PEFT's settings of the adapters whose names start with a prefix, by names with this prefix."""
    # Some versions of transformers have the prefix `text_model.` and others do not.
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
