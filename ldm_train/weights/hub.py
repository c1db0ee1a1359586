"""Find weights on this machine, or on the Hugging Face hub."""

import re
from pathlib import Path

FILES = {".safetensors", ".ckpt", ".pt", ".pth", ".bin"}


def locate_weights(weights: str, *, setting: str, subfolder: str, name: str) -> Path:
    """Return the path of the weights that a setting names, after downloading them if they are on the hub.

    Args:
        weights: a file, a folder, or a name on the hub; the other arguments are those of `download_weights`.

    Raises:
        ValueError: there are no such weights.
    """
    if Path(weights).exists():
        return Path(weights)
    if not is_hub_name(weights):
        raise ValueError(f"{setting}={weights} is not a file, a folder, or a name on the Hugging Face hub (owner/name)")
    from ldm_train.weights.hub_download import download_weights  # the hub's client takes a while to import

    return download_weights(weights, setting=setting, subfolder=subfolder, name=name)


def is_hub_name(weights: str) -> bool:
    """Return whether this may be the name of a repository (owner/name) and not a file's."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", weights)) and Path(weights).suffix not in FILES
