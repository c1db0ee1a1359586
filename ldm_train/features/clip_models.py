"""Load published open_clip models with both towers, frozen, for measuring images and captions.

open_clip takes seconds to import, so only runs that measure with it do.
"""

from pathlib import Path

import torch
from torch import nn

from ldm_train.features.preprocessing import ResizedSquare
from ldm_train.util.text import first_line


def load_clip(model: str, pretrained: str, *, setting: str) -> tuple[nn.Module, int]:
    """Return a frozen open_clip model and the size of its embeddings.

    Args:
        model: open_clip's name of the architecture.
        pretrained: open_clip's tag of the weights, which are downloaded, or a file.
        setting: the config group's name, for messages.

    Raises:
        ValueError: the architecture or the weights are not known, or cannot be loaded.
    """
    import open_clip

    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        raise ValueError(f"{setting}.model={model} is not an open_clip model; `open_clip.list_models()` lists them")
    if not Path(pretrained).is_file() and (model, pretrained) not in open_clip.list_pretrained():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise ValueError(f"{setting}.pretrained={pretrained} is neither a file nor weights of {model} (available: {tags})")
    try:
        with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are then replaced
            loaded: nn.Module = open_clip.create_model(model, pretrained=pretrained)
    except Exception as error:  # whatever the download or the file's reader raises
        raise ValueError(
            f"cannot load {setting}.pretrained={pretrained} of {model}: {first_line(error)}; "
            f"without a network, give a file that was downloaded before: {setting}.pretrained=FILE"
        ) from error
    return loaded.eval().requires_grad_(False), config["embed_dim"]


def read_clip_preprocessing(towers: nn.Module) -> ResizedSquare:
    """Return the preprocessing that a model was trained with."""
    import open_clip

    config = open_clip.get_model_preprocess_cfg(towers)
    size = config["size"]
    return ResizedSquare(size if isinstance(size, int) else size[0], mean=config["mean"], deviation=config["std"])


def format_clip_name(model: str, pretrained: str) -> str:
    """Return a name of an architecture and its weights for metrics' names."""
    return normalize_name(f"{model} {Path(pretrained).stem if Path(pretrained).is_file() else pretrained}")


def normalize_name(text: str) -> str:
    """Return the text in lower-case letters, digits and underscores."""
    return "_".join("".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split())
