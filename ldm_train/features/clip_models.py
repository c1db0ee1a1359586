"""Published open_clip models with both towers, frozen, for measuring pictures and captions."""

from pathlib import Path

import open_clip
import torch
from torch import nn

from ldm_train.features.preprocessing import Square


def load_clip(model: str, pretrained: str, *, setting: str) -> tuple[nn.Module, int]:
    """A frozen model by open_clip's name and the size of its embeddings, with the weights of a tag (downloaded) or a file.

    Args:
        setting: what the config calls the group, for the messages.

    Raises:
        ValueError: an unknown architecture or weights, or no way to get them.
    """
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        raise ValueError(f"{setting}.model={model} is not known to open_clip; `open_clip.list_models()` names them")
    if not Path(pretrained).is_file() and (model, pretrained) not in open_clip.list_pretrained():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise ValueError(f"{setting}.pretrained={pretrained} is neither a file nor weights of {model} (there are: {tags})")
    try:
        with torch.random.fork_rng(devices=[]):  # what the weights replace is drawn at first
            loaded: nn.Module = open_clip.create_model(model, pretrained=pretrained)
    except Exception as error:  # whatever the download or the file's reader raises
        raise ValueError(
            f"cannot load {setting}.pretrained={pretrained} of {model}: {str(error).splitlines()[0]}; "
            f"offline, give a file that was downloaded before: {setting}.pretrained=FILE"
        ) from error
    return loaded.eval().requires_grad_(False), config["embed_dim"]


def clip_square(towers: nn.Module) -> Square:
    """How a model was shown pictures when it was trained."""
    told = open_clip.get_model_preprocess_cfg(towers)
    size = told["size"]
    return Square(size if isinstance(size, int) else size[0], mean=told["mean"], deviation=told["std"])


def clip_name(model: str, pretrained: str) -> str:
    """Of an architecture and its weights, as it stands in metrics' names."""
    return plain_name(f"{model} {Path(pretrained).stem if Path(pretrained).is_file() else pretrained}")


def plain_name(text: str) -> str:
    """In lower-case letters, digits and underscores."""
    return "_".join("".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split())
