"""A published text transformer from a folder or file of whichever layout, as open_clip's tower."""

import inspect
from collections.abc import Mapping

import open_clip
from open_clip.model import CLIPTextCfg, _build_text_tower
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from ldm_train.util.safe_json import Json
from ldm_train.weights.fingerprint import digest_tensors
from ldm_train.weights.hub import locate
from ldm_train.weights.layouts.text_layout import architecture, reading
from ldm_train.weights.module_loading import load
from ldm_train.weights.part_folders import read_json
from ldm_train.weights.published_parts import Found, find_text_encoder

VOCABULARY = 49408
PADS = {"<|endoftext|>": 49407, "!": 0}  # the tokens with which 1.x and 2.x pad
NAMES_OF_ACTIVATIONS = {"QuickGELU()": "quick_gelu", "GELU(approximate='none')": "gelu"}  # as modules print themselves
ACTIVATIONS = {"quick_gelu": True, "gelu": False}  # transformers' names, and whether open_clip's model is a quickgelu one


def clip_tower(model: str, weights: str, *, layer: str, pad_token: int) -> tuple[TextTransformer, str]:
    """A tower of one of open_clip's architectures with weights from here or the hub, and what is to be told of them.

    Where the layer wanted is the penultimate, weights without the last one are as good, and give a tower without it.

    Raises:
        ValueError: no text transformer with CLIP's vocabulary, no such weights, those of another architecture, or of a
            pipeline that pads with another token.
    """
    settings = text_settings(model)
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
    try:
        path = locate(weights, setting="text_encoder.weights", subfolder="text_encoder", name="model")
    except ValueError as error:
        raise ValueError(
            f"text_encoder.weights={weights} is neither a file nor weights of {model} (there are: {tags}): {error}"
        ) from error
    try:
        found = find_text_encoder(path)
        refuse_other_padding(found, pad_token)
        layers = fitting_layers(found, settings, quick=quick(model), layer=layer)
        tower = build_tower(model, settings | {"layers": layers})
        state = {name: tensor for name, tensor in tower.state_dict().items() if not name.startswith("text_projection")}
        load(state, reading(state, found.tensors), found.tensors, found.shapes)
    except ValueError as error:
        raise ValueError(f"text_encoder.weights={weights}: {error}") from error
    told = "" if found.config else f"; a file does not tell its activation and heads, {model}'s are taken"
    return tower, f"text_encoder.weights={weights}: {found.layout}, {layers} layers of width {tower.width}{told}"


def refuse_other_padding(found: Found, pad_token: int) -> None:
    """Refuse another padding than that of the tokenizer in the same pipeline, with which the network was trained.

    Raises:
        ValueError: they differ.
    """
    path = found.path.parent / "tokenizer" / "tokenizer_config.json"
    if not found.path.is_dir() or not path.is_file():
        return
    pad = read_json(path).get("pad_token")
    there = PADS.get(str(pad.get("content") if isinstance(pad, dict) else pad), pad_token)
    if there != pad_token:
        raise ValueError(f"the pipeline pads captions with {there}, and text_encoder.pad_token={pad_token}; set it so")


def text_settings(model: str) -> dict[str, object]:
    """open_clip's settings of a model's text transformer, those that it leaves to their defaults too.

    Raises:
        ValueError: it has none with CLIP's vocabulary.
    """
    defaults = {name: p.default for name, p in inspect.signature(CLIPTextCfg).parameters.items()}
    settings = defaults | open_clip.get_model_config(model)["text_cfg"]
    if settings["hf_model_name"] or settings["vocab_size"] != VOCABULARY:
        raise ValueError(f"text_encoder.model={model} has no text transformer with CLIP's vocabulary; choose one that has")
    return settings


def quick(model: str) -> bool:
    """Whether a model's activation is the faster approximation of GELU that OpenAI's have."""
    return bool(open_clip.get_model_config(model).get("quick_gelu", False))


def layers_of(model: str) -> int:
    """How many a model's text transformer has."""
    return int(str(text_settings(model)["layers"]))


def build_tower(model: str, settings: Mapping[str, object]) -> TextTransformer:
    """An untrained one; open_clip has no public way to make the text's part alone."""
    tower: nn.Module = _build_text_tower(
        open_clip.get_model_config(model)["embed_dim"], dict(settings), quick_gelu=quick(model)
    )
    if not isinstance(tower, TextTransformer):
        raise ValueError(f"text_encoder.model={model} has no text transformer with CLIP's vocabulary; choose one that has")
    return tower


def describe_states(tower: TextTransformer | None, layer: str, new_vectors: Mapping[str, Tensor]) -> dict[str, Json]:
    """Return what turns tokens into hidden states: settings, the weights up to the layer taken, new words' vectors."""
    assert tower is not None
    count = len(tower.transformer.resblocks) - (layer == "penultimate")
    settings, weights = describe_tower(tower, layers=count)
    words: dict[str, Json] = {"new_vectors": digest_tensors(new_vectors)} if new_vectors else {}
    return {**settings, "fingerprint": digest_tensors(weights), **words}


def describe_tower(tower: TextTransformer, *, layers: int) -> tuple[dict[str, Json], dict[str, Tensor]]:
    """Return the settings and the weights by which the first layers of a tower compute hidden states.

    The settings are those that no weight's name or shape shows.
    """
    unused = tuple(f"transformer.resblocks.{number}." for number in range(layers, len(tower.transformer.resblocks)))
    left_out = ("text_projection", "token_embedding.learned", *unused)
    weights = {name: tensor for name, tensor in tower.state_dict().items() if not name.startswith(left_out)}
    block = tower.transformer.resblocks[0]
    settings: dict[str, Json] = {
        "layers": layers,
        "heads": int(block.attn.num_heads),
        "activation": NAMES_OF_ACTIVATIONS.get(str(block.mlp.gelu), str(block.mlp.gelu)),
        "norm_eps": [float(norm.eps) for norm in (block.ln_1, block.ln_2, tower.ln_final)],
        "causal": tower.attn_mask is not None,
    }
    return settings, weights


def fitting_layers(found: Found, settings: Mapping[str, object], *, quick: bool, layer: str) -> int:
    """How many layers the weights have, where they are those of these settings.

    Raises:
        ValueError: they differ in more than a last layer that is not needed.
    """
    there: dict[str, object] = {**architecture(found.shapes)}
    here: dict[str, object] = {**settings, "quick_gelu": quick}
    if found.config is not None:
        config = found.config.get("text_config", found.config)
        act, heads, eps = (config.get(name) for name in ("hidden_act", "num_attention_heads", "layer_norm_eps"))
        there |= {"quick_gelu": ACTIVATIONS.get(str(act), act)} if act is not None else {}
        there |= {"heads": heads} if heads is not None else {}
        if eps not in (None, 1e-5):
            raise ValueError(f"its layer_norm_eps={eps} is not open_clip's 1e-05")
    layers = int(str(there["layers"]))
    if layer == "penultimate" and layers == int(str(here["layers"])) - 1:
        here["layers"] = layers
    wrong = [f"{name}={value} there and {here[name]} here" for name, value in there.items() if here[name] != value]
    if wrong:
        raise ValueError(f"they are not those of text_encoder.model: {', '.join(wrong)}; choose the model that they are of")
    return layers
