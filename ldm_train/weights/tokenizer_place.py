"""Where the tokenizer of a text encoder is: next to its weights, or in its own folder of a pipeline."""

import os
from pathlib import Path

MODEL, TOKENIZER = "text_encoder", "tokenizer"  # a pipeline's folders; a second encoder's end in _2


def find_tokenizer(weights: str, subfolder: str | None, tokenizer: str | None) -> tuple[str, str]:
    """Return the folder or the name on the hub that has a text encoder's tokenizer, and the subfolder in it.

    Args:
        tokenizer: what a config names; None for the pipeline's, or the one in the folder of the weights.
    """
    if tokenizer is not None:
        return tokenizer, ""
    if subfolder is not None and subfolder.startswith(MODEL):
        return weights, TOKENIZER + subfolder.removeprefix(MODEL)
    path = Path(os.path.normpath(weights))
    sibling = path.with_name(TOKENIZER + path.name.removeprefix(MODEL)) if path.name.startswith(MODEL) else path
    return (str(sibling), "") if sibling.is_dir() else (weights, subfolder or "")
