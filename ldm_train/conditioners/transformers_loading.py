"""Load a text encoder of `transformers` and its tokenizer, from safetensors and without running code of the folder."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.utils import logging as transformers_logging

from ldm_train.util.safe_json import Json
from ldm_train.util.text import first_line, list_names
from ldm_train.weights.fingerprint import digest_tensors
from ldm_train.weights.hub import is_hub_name
from ldm_train.weights.tokenizer_place import find_tokenizer

PROJECTED = "CLIPTextModelWithProjection"
NAMES_ONLY = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}  # of a config
ANY_LENGTH = 10**6  # tokenizers name a larger length for none
POOLER = "pooler."  # begins the names of weights that only a pooled output needs


@dataclass
class TextModel:
    """A text encoder with its tokenizer.

    Args:
        model: None once it was freed.
        kind: the model's class.
        identity: the digests of its weights, its config and its tokenizer.
        longest: the most tokens that it takes at once.
    """

    model: nn.Module | None
    tokenizer: Any
    kind: str
    identity: dict[str, Json]
    longest: int

    @property
    def num_special(self) -> int:
        """How many tokens the tokenizer adds to each caption."""
        return len(self.read_ids([""], max_length=None)[0])

    def read_ids(self, captions: Sequence[str], *, max_length: int | None) -> list[list[int]]:
        """Return the ids of captions, with special tokens and without padding, cut to `max_length`."""
        if not captions:
            return []
        cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
        found: list[list[int]] = self.tokenizer(list(captions), **cut, verbose=False)["input_ids"]
        return found

    def padding(self, *, needed: bool) -> int:
        """Return the id that fills a caption; any if it is hidden.

        Raises:
            ValueError: it is needed, and the tokenizer has none.
        """
        found = self.tokenizer.pad_token_id
        if found is None and needed:
            raise ValueError(
                "text_encoder.mask=false shows padding to the model, and its tokenizer has no token to pad with"
            )
        return 0 if found is None else int(found)


def open_text_model(weights: str, *, subfolder: str | None, tokenizer: str | None, pooled: bool) -> TextModel:
    """Return a text encoder and its tokenizer.

    Args:
        pooled: whether the weights of a pooled output must be there.

    Raises:
        ValueError: either is not there, cannot be loaded, lacks weights, or is no text encoder.
    """
    place, folder = find_tokenizer(weights, subfolder, tokenizer)
    for setting, value in (("weights", weights), ("tokenizer", place)):
        if not Path(value).is_dir() and not is_hub_name(value):
            raise ValueError(
                f"text_encoder.{setting}={value} is neither a folder in transformers' layout nor a name on the Hugging Face "
                "hub (owner/name)"
            )
    with explained_loading(f"text_encoder.weights={weights}"), torch.random.fork_rng(devices=[]):
        model = load_model(weights, subfolder or "", pooled=pooled)
    with explained_loading(f"the tokenizer of text_encoder.weights={weights}, text_encoder.tokenizer={place}"):
        reader = transformers.AutoTokenizer.from_pretrained(place, subfolder=folder, **from_safe_files(place))
    config = {name: value for name, value in model.config.to_diff_dict().items() if name not in NAMES_ONLY}
    identity: dict[str, Json] = {
        "model": type(model).__name__,
        "config": digest_text(json.dumps(config, sort_keys=True, default=str)),
        "tokenizer": digest_text(describe_tokenizer(reader)),
        "fingerprint": digest_tensors(model.state_dict()),
    }
    found = TextModel(model, reader, type(model).__name__, identity, find_longest(model, reader))
    try_model(found, weights)
    return found


def from_safe_files(place: str) -> dict[str, Any]:
    """Return the arguments that keep transformers from running code of a folder, and from the network for a local one."""
    return {"trust_remote_code": False, "local_files_only": Path(place).is_dir()}


def load_model(weights: str, subfolder: str, *, pooled: bool) -> transformers.PreTrainedModel:
    """Return the text encoder of a folder or a repository, in float32.

    Raises:
        ValueError: it lacks weights.
    """
    given = {"subfolder": subfolder, **from_safe_files(weights)}
    config = transformers.AutoConfig.from_pretrained(weights, **given)
    kind = choose_class(config)
    model, info = kind.from_pretrained(weights, **given, use_safetensors=True, dtype=torch.float32, output_loading_info=True)
    missing = sorted(name for name in info["missing_keys"] if pooled or not name.startswith(POOLER))
    if missing or info["mismatched_keys"]:
        names = list_names(missing or [str(one) for one in info["mismatched_keys"]])
        hint = "; text_encoder.pooled=false needs no pooler" if missing and missing[0].startswith(POOLER) else ""
        raise ValueError(f"the file has no fitting weights for {names} of {type(model).__name__}{hint}")
    encoder: transformers.PreTrainedModel = (
        model.get_encoder() if config.is_encoder_decoder and kind is transformers.AutoModel else model
    )
    return encoder


def choose_class(config: Any) -> Any:
    """Return the class that reads texts of a model's config."""
    if PROJECTED in (config.architectures or ()):
        return transformers.CLIPTextModelWithProjection
    if isinstance(config, transformers.CLIPConfig):
        return transformers.CLIPTextModel
    is_known = type(config) in transformers.AutoModelForTextEncoding._model_mapping
    return transformers.AutoModelForTextEncoding if is_known else transformers.AutoModel


def try_model(found: TextModel, weights: str) -> None:
    """Call a model once.

    Raises:
        ValueError: it reads no texts, or has fewer tokens than its tokenizer.
    """
    assert found.model is not None
    ids = torch.tensor([[len(found.tokenizer) - 1]])
    try:
        with torch.no_grad():
            states = found.model.eval()(input_ids=ids).last_hidden_state
    except Exception as error:  # whatever a model of another kind raises
        raise ValueError(
            f"text_encoder.weights={weights}: {found.kind} cannot embed the last token of its tokenizer ({ids.item()}), so "
            f"it is no text encoder, or the tokenizer is another one's: {first_line(error)}"
        ) from error
    if states.ndim != 3:
        raise ValueError(f"text_encoder.weights={weights}: {found.kind} gives no tokens")


def find_longest(model: nn.Module, tokenizer: Any) -> int:
    """Return the most tokens that a model takes at once; of relative positions, ANY_LENGTH."""
    places = getattr(model.config, "max_position_embeddings", None)
    named = tokenizer.model_max_length
    limits = [places] if isinstance(places, int) and places > 0 else []
    # A tokenizer knows what is kept of the positions; of models with relative ones, it only names a habit.
    return min([*limits, *([named] if limits and 0 < named < ANY_LENGTH else [])], default=ANY_LENGTH)


def describe_tokenizer(tokenizer: Any) -> str:
    """Return everything that decides a tokenizer's ids as a text."""
    if tokenizer.is_fast:
        # Each call sets these two anew.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        rules: str = tokenizer.backend_tokenizer.to_str()
        return rules
    return type(tokenizer).__name__ + json.dumps(tokenizer.get_vocab(), sort_keys=True)


def digest_text(text: str) -> str:
    """Return the SHA-256 of a text; hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def explained_loading(setting: str) -> Iterator[None]:
    """Raise what transformers raises as a ValueError that names the setting, and hide its progress bars."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # whatever the hub's client and the readers of files raise
        raise ValueError(f"{setting} cannot be loaded: {first_line(error)}") from error
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
