"""Text encoder names: open_clip's text transformer, and transformers' CLIPTextModel, which stores q, k and v separately.

This package trains open_clip's. Single files of Stable Diffusion contain transformers' names (1.x) or open_clip's (2.x)
below `cond_stage_model`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Size

from ldm_train.weights.tensor_mapping import Piece


@dataclass(frozen=True)
class TextArchitecture:
    """A text transformer's sizes; None where no tensor shows them."""

    layers: int
    width: int | None = None
    vocab_size: int | None = None
    context_length: int | None = None


PREFIX_1, PREFIX_2 = "cond_stage_model.transformer.", "cond_stage_model.model."
HEAD = "text_model."
TEXT_OUTER = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
SPLIT = ("q_proj", "k_proj", "v_proj")
# Hidden states don't depend on these: position ids, the projection to the similarity space, and open_clip's image tower.
UNUSED = re.compile(
    r"(text_model\.)?embeddings\.position_ids|text_projection(\.weight)?|logit_scale|logit_bias|attn_mask|visual\..*"
    r"|input_resolution|context_length|vocab_size"
)


def has_transformers_names(names: Iterable[str]) -> bool:
    """Return whether these are CLIPTextModel's names, with or without the prefix `text_model.`."""
    return any(name.removeprefix(HEAD) == "embeddings.token_embedding.weight" for name in names)


def map_text_encoder_from_published(ours: Iterable[str], theirs: Iterable[str]) -> dict[str, Piece]:
    """Return the piece that makes each tensor of open_clip's transformer from a file of either layout."""
    theirs = set(theirs)
    if not has_transformers_names(theirs):
        return {name: Piece((name,)) for name in ours}
    head = HEAD if any(name.startswith(HEAD) for name in theirs) else ""
    return {name: Piece(tuple(head + one for one in list_transformers_names(name))) for name in ours}


def map_text_encoder_to_transformers(ours: Iterable[str], *, head: str = HEAD) -> dict[str, Piece]:
    """Return the piece that makes each CLIPTextModel tensor from open_clip's; `head` is the prefix of the new names."""
    table: dict[str, Piece] = {}
    for name in ours:
        names = list_transformers_names(name)
        table |= {head + one: Piece((name,), (number, len(names))) for number, one in enumerate(names)}
    return table


def list_transformers_names(name: str) -> tuple[str, ...]:
    """Return CLIPTextModel's name for one of open_clip's, or the three whose tensors open_clip concatenates.

    Raises:
        ValueError: CLIPTextModel has no such tensor.
    """
    if name in TEXT_OUTER:
        return (TEXT_OUTER[name],)
    match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
    if match is None:
        raise ValueError(f"transformers' CLIPTextModel has no place for {name}")
    layer, (module, _, kind) = f"encoder.layers.{match[1]}", match[2].rpartition(".")
    if module in INNER:
        return (f"{layer}.{INNER[module]}.{kind}",)
    if match[2] in ("attn.in_proj_weight", "attn.in_proj_bias"):
        return tuple(f"{layer}.self_attn.{one}.{kind.removeprefix('in_proj_')}" for one in SPLIT)
    raise ValueError(f"transformers' CLIPTextModel has no place for {name}")


def infer_text_architecture(shapes: Mapping[str, Size]) -> TextArchitecture:
    """Return the sizes that the shapes of a text transformer's tensors show, in either layout."""
    plain = {name.removeprefix(HEAD): shape for name, shape in shapes.items()}
    layers = {m[1] for name in plain if (m := re.match(r"(?:encoder\.layers|transformer\.resblocks)\.(\d+)\.", name))}
    tokens = plain.get("embeddings.token_embedding.weight", plain.get("token_embedding.weight"))
    positions = plain.get("embeddings.position_embedding.weight", plain.get("positional_embedding"))
    vocab_size, width = tokens if tokens is not None and len(tokens) == 2 else (None, None)
    length = positions[0] if positions is not None and len(positions) == 2 else None
    return TextArchitecture(len(layers), width, vocab_size, length)
