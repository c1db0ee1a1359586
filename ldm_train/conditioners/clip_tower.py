"""Load a published text transformer of any layout into open_clip's text tower."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import open_clip
from open_clip.model import CLIPTextCfg, _build_text_tower
from open_clip.transformer import TextTransformer
from torch import nn

from ldm_train.conditioners.text_tower import VOCABULARY
from ldm_train.util.safe_json import Json, read_object
from ldm_train.util.text import first_line
from ldm_train.weights.exported_files import check_exported_file
from ldm_train.weights.hub import locate_weights
from ldm_train.weights.layouts.text_layout import infer_text_architecture, map_text_encoder_from_published
from ldm_train.weights.leftovers import describe_leftovers
from ldm_train.weights.module_loading import copy_into_module
from ldm_train.weights.published_parts import PublishedPart, find_text_encoder

USUAL = ("ViT-L-14-quickgelu", "ViT-H-14")  # the text encoders of Stable Diffusion 1.x and 2.x
# That Stable Diffusion 1.x and 2.x pad with, and exports of networks that were trained with the second one.
PAD_TOKENS = {"<|endoftext|>": 49407, "!": 0, "<|padding|>": 0}
ACTIVATIONS = {"quick_gelu": True, "gelu": False}  # transformers' names to open_clip's setting quick_gelu


def open_tower(
    model: str, weights: str, *, layer: Literal["last", "penultimate"], pad_token: int
) -> tuple[TextTransformer, Literal["last", "penultimate"], str]:
    """Return open_clip's text tower with weights of open_clip's, or as `load_clip_tower`; the layer that is the asked one in
    it, and a message about the weights.

    Raises:
        ValueError: open_clip has no such model, or as `load_clip_tower`.
    """
    if model not in open_clip.list_models():
        raise ValueError(f"text_encoder.model={model} is not an open_clip model; `open_clip.list_models()` lists them")
    if (model, weights) in open_clip.list_pretrained():
        return _downloaded(model, weights), layer, f"text_encoder.weights={weights}: open_clip's {model}"
    tower, note = load_clip_tower(model, weights, layer=layer, pad_token=pad_token)
    lacks_last = layer == "penultimate" and len(tower.transformer.resblocks) < count_layers(model)
    return tower, "last" if lacks_last else layer, note


def load_clip_tower(model: str, weights: str, *, layer: str, pad_token: int) -> tuple[TextTransformer, str]:
    """Return open_clip's text tower of a model with weights from a path or the hub, and a message about them.

    If the penultimate layer is used, the weights may lack the last layer, and then the tower lacks it too.

    Raises:
        ValueError: the model has no text transformer with CLIP's vocabulary, the weights cannot be found or have another
            architecture, or their pipeline pads with another token.
    """
    settings = read_text_settings(model)
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
    try:
        path = locate_weights(weights, setting="text_encoder.weights", subfolder="text_encoder", name="model")
    except ValueError as error:
        raise ValueError(
            f"text_encoder.weights={weights} is neither a file nor weights of {model} (available: {tags}): {error}"
        ) from error
    try:
        found = find_text_encoder(path)
        check_padding(found, pad_token)
        layers = match_layers(found, settings, quick=uses_quick_gelu(model), layer=layer)
        tower = build_tower(model, settings | {"layers": layers})
        state = {name: tensor for name, tensor in tower.state_dict().items() if not name.startswith("text_projection")}
        copy_into_module(state, map_text_encoder_from_published(state, found.tensors), found.tensors, found.shapes)
    except ValueError as error:
        raise ValueError(f"text_encoder.weights={weights}: {error}") from error
    assumed = "" if found.config else f"; its activation and number of heads are not in the file, those of {model} are used"
    lines = [f"{found.layout}, {layers} layers of width {tower.width}{assumed}", *describe_leftovers(found.ignored)]
    return tower, f"text_encoder.weights={weights}: {'; '.join(lines)}"


def check_padding(found: PublishedPart, pad_token: int) -> None:
    """Raise if the tokenizer of the same pipeline pads with another token, which the network was trained with.

    Raises:
        ValueError: the tokens differ.
    """
    there = read_pad_token(found.path.parent) if found.path.is_dir() else None
    if there not in (None, pad_token):
        raise ValueError(
            f"the pipeline pads captions with {there}, and text_encoder.pad_token={pad_token}; "
            f"set text_encoder.pad_token={there}"
        )


def read_pad_token(folder: Path) -> int | None:
    """Return the token that a pipeline's tokenizer pads with, None if it does not say so or the token is unknown.

    Raises:
        ValueError: its file cannot be read.
    """
    path = folder / "tokenizer" / "tokenizer_config.json"
    if not path.is_file():
        return None
    check_exported_file(path)
    pad = read_object(path).get("pad_token")
    return PAD_TOKENS.get(str(pad.get("content") if isinstance(pad, dict) else pad))


def read_text_settings(model: str) -> dict[str, object]:
    """Return open_clip's settings of a model's text transformer, including the defaults.

    Raises:
        ValueError: the model has no text transformer with CLIP's vocabulary.
    """
    defaults = {name: p.default for name, p in inspect.signature(CLIPTextCfg).parameters.items()}
    settings = defaults | open_clip.get_model_config(model)["text_cfg"]
    if settings["hf_model_name"] or settings["vocab_size"] != VOCABULARY:
        raise ValueError(f"text_encoder.model={model} has no text transformer with CLIP's vocabulary; choose one that has")
    return settings


def find_text_model(config: Mapping[str, Json]) -> tuple[str, str]:
    """Return an open_clip model with a text transformer of the sizes of a `CLIPTextModel`'s config, and the layer to use.

    The model may have one layer more, as that of Stable Diffusion 2, of which the last layer was left out.

    Raises:
        ValueError: there is none.
    """
    names = ("hidden_size", "num_attention_heads", "max_position_embeddings", "vocab_size", "hidden_act")
    there, layers = [config.get(name) for name in names], config.get("num_hidden_layers")
    for model in (*USUAL, *sorted({*open_clip.list_models()} - {*USUAL})):
        sizes = open_clip.get_model_config(model)["text_cfg"]
        if sizes.get("hf_model_name") or sizes.get("vocab_size", VOCABULARY) != VOCABULARY:
            continue
        sizes = read_text_settings(model)
        here = [sizes[name] for name in ("width", "heads", "context_length", "vocab_size")]
        here += ["quick_gelu" if uses_quick_gelu(model) else "gelu"]
        if here == there and layers in (sizes["layers"], int(str(sizes["layers"])) - 1):
            return model, "last" if layers == sizes["layers"] else "penultimate"
    listed = ", ".join(f"{name}={value}" for name, value in zip(names, there, strict=True))
    raise ValueError(f"open_clip has no text encoder with {listed} and num_hidden_layers={layers}")


def uses_quick_gelu(model: str) -> bool:
    """Return whether a model uses QuickGELU, an approximation, as OpenAI's models do."""
    return bool(open_clip.get_model_config(model).get("quick_gelu", False))


def count_layers(model: str) -> int:
    """Return how many layers a model's text transformer has."""
    return int(str(read_text_settings(model)["layers"]))


def build_tower(model: str, settings: Mapping[str, object]) -> TextTransformer:
    """Return an untrained text tower. open_clip has no public function for building only the text tower."""
    tower: nn.Module = _build_text_tower(
        open_clip.get_model_config(model)["embed_dim"], dict(settings), quick_gelu=uses_quick_gelu(model)
    )
    if not isinstance(tower, TextTransformer):
        raise ValueError(f"text_encoder.model={model} has no text transformer with CLIP's vocabulary; choose one that has")
    return tower


def match_layers(found: PublishedPart, settings: Mapping[str, object], *, quick: bool, layer: str) -> int:
    """Return how many layers the weights have, if they fit these settings.

    Raises:
        ValueError: they differ from the settings in more than a last layer that is not used.
    """
    sizes = infer_text_architecture(found.shapes)
    there: dict[str, object] = {name: value for name, value in asdict(sizes).items() if value is not None}
    here: dict[str, object] = {**settings, "quick_gelu": quick}
    if found.config is not None:
        config = found.config.get("text_config", found.config)
        act, heads, eps = (config.get(name) for name in ("hidden_act", "num_attention_heads", "layer_norm_eps"))
        there |= {"quick_gelu": ACTIVATIONS.get(str(act), act)} if act is not None else {}
        there |= {"heads": heads} if heads is not None else {}
        if eps not in (None, 1e-5):
            raise ValueError(f"its layer_norm_eps={eps} differs from open_clip's 1e-05, so it cannot be loaded")
    layers = sizes.layers
    if layer == "penultimate" and layers == int(str(here["layers"])) - 1:
        here["layers"] = layers
    wrong = [f"{name}={value} there and {here[name]} here" for name, value in there.items() if here[name] != value]
    if wrong:
        raise ValueError(
            f"the weights do not fit text_encoder.model: {', '.join(wrong)}; choose the model that they belong to"
        )
    return layers


def _downloaded(model: str, weights: str) -> TextTransformer:
    """Return the text tower of an open_clip model with open_clip's weights of this name."""
    try:
        tower = open_clip.create_model(model, pretrained=weights, force_custom_text=True).text
    except Exception as error:  # whatever the download or the file's reader raises
        raise ValueError(
            f"cannot load text_encoder.weights={weights}: {first_line(error)}; download them elsewhere and give the file"
        ) from error
    if not isinstance(tower, TextTransformer) or tower.vocab_size != VOCABULARY:
        raise ValueError(f"text_encoder.model={model} has no text transformer with CLIP's vocabulary; choose one that has")
    return tower
