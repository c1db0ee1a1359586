"""The text encoder's names: open_clip's text transformer, and transformers' CLIPTextModel, which keeps q, k and v apart.

Ours is open_clip's. Single files have either, below `cond_stage_model`: 1.x transformers', 2.x open_clip's.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Size

from ldm_train.weights.tensor_mapping import Piece

PREFIX_1, PREFIX_2 = "cond_stage_model.transformer.", "cond_stage_model.model."
HEAD = "text_model."
OUTER = {
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
# What says nothing of the hidden states: positions counted, the similarity space, and open_clip's pictures.
UNUSED = re.compile(
    r"(text_model\.)?embeddings\.position_ids|text_projection(\.weight)?|logit_scale|logit_bias|attn_mask|visual\..*"
    r"|input_resolution|context_length|vocab_size"
)


def is_transformers(names: Iterable[str]) -> bool:
    """Whether these are CLIPTextModel's, with or without `text_model.` before them."""
    return any(name.removeprefix(HEAD) == "embeddings.token_embedding.weight" for name in names)


def reading(ours: Iterable[str], theirs: Iterable[str]) -> dict[str, Piece]:
    """How our tower's tensors are made of those that a file has under these names, of either layout."""
    theirs = set(theirs)
    if not is_transformers(theirs):
        return {name: Piece((name,)) for name in ours}
    head = HEAD if any(name.startswith(HEAD) for name in theirs) else ""
    return {name: Piece(tuple(head + one for one in their_names(name))) for name in ours}


def writing(ours: Iterable[str], *, head: str = HEAD) -> dict[str, Piece]:
    """How CLIPTextModel's tensors are made of our tower's; `head` is what stands before each name."""
    table: dict[str, Piece] = {}
    for name in ours:
        names = their_names(name)
        table |= {head + one: Piece((name,), (number, len(names))) for number, one in enumerate(names)}
    return table


def their_names(name: str) -> tuple[str, ...]:
    """CLIPTextModel's name for one of open_clip's, or three where open_clip's are these concatenated.

    Raises:
        ValueError: it has none.
    """
    if name in OUTER:
        return (OUTER[name],)
    match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
    if match is None:
        raise ValueError(f"transformers' CLIPTextModel has no place for {name}")
    layer, (module, _, kind) = f"encoder.layers.{match[1]}", match[2].rpartition(".")
    if module in INNER:
        return (f"{layer}.{INNER[module]}.{kind}",)
    if match[2] in ("attn.in_proj_weight", "attn.in_proj_bias"):
        return tuple(f"{layer}.self_attn.{one}.{kind.removeprefix('in_proj_')}" for one in SPLIT)
    raise ValueError(f"transformers' CLIPTextModel has no place for {name}")


def architecture(shapes: Mapping[str, Size]) -> dict[str, int]:
    """Width, layers, length and vocabulary of the text transformer of either layout, as far as the shapes tell."""
    plain = {name.removeprefix(HEAD): shape for name, shape in shapes.items()}
    layers = {m[1] for name in plain if (m := re.match(r"(?:encoder\.layers|transformer\.resblocks)\.(\d+)\.", name))}
    tokens = plain.get("embeddings.token_embedding.weight", plain.get("token_embedding.weight"))
    positions = plain.get("embeddings.position_embedding.weight", plain.get("positional_embedding"))
    found = {"layers": len(layers)}
    if tokens is not None and len(tokens) == 2:
        found |= {"vocab_size": tokens[0], "width": tokens[1]}
    if positions is not None and len(positions) == 2:
        found |= {"context_length": positions[0]}
    return found
