"""Files of new words' vectors, textual inversions, whoever wrote them: words to vectors (N, D).

diffusers' have a word's name and its vectors; those of web interfaces have `emb_params` and the file's name, or, as .pt,
`string_to_param` and a name of their own.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.util.text import list_names
from ldm_train.weights.lazy_tensors import unpickled
from ldm_train.weights.tensor_files import read

FILE = "learned_embeds.safetensors"
UNNAMED = ("emb_params", "*")  # the file is named as the word
XL = ("clip_l", "clip_g")
PICKLES = (".bin", ".pt")


def read_words(path: Path) -> dict[str, Tensor]:
    """A file's words and their vectors, or those of a run's directory.

    Raises:
        ValueError: it is no such file, or holds more than that.
    """
    path = path / FILE if path.is_dir() else path
    if path.suffix not in (".safetensors", *PICKLES) or not path.is_file():
        raise ValueError(
            f"{path} is no file of vectors, .safetensors, .bin or .pt; a run that trained new words has one, {FILE}"
        )
    named = by_name(read(path) if path.suffix == ".safetensors" else unpickled(path))
    if xl := sorted(named.keys() & set(XL)):
        raise ValueError(
            f"{path} holds {list_names(xl)}, vectors for the two text encoders of Stable Diffusion XL, which are not read "
            "here; take an embedding that was made for this run's text encoder"
        )
    if not named:
        raise ValueError(f"{path} holds no word's vectors")
    return {path.stem if name in UNNAMED else name: rows_of(path, name, rows) for name, rows in named.items()}


def by_name(content: object) -> dict[str, object]:
    """What a file holds, by the words' names. What web interfaces tell of the training beside is left."""
    if not isinstance(content, Mapping):
        return {}
    vectors = content.get("string_to_param", content)
    if content.get("name") and isinstance(vectors, Mapping) and vectors.keys() == {"*"}:
        return {str(content["name"]): vectors["*"]}
    return {str(name): rows for name, rows in vectors.items()} if isinstance(vectors, Mapping) else {}


def rows_of(path: Path, name: str, rows: object) -> Tensor:
    """A word's vectors, (N, D).

    Raises:
        ValueError: it is something else.
    """
    plain = isinstance(rows, Tensor) and rows.is_floating_point() and rows.layout == torch.strided
    if not isinstance(rows, Tensor) or not plain or rows.ndim not in (1, 2):
        what = f"{rows.dtype}, {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(f"{path} holds {name}, {what}, which is no vector of a word, nor several")
    return rows.detach()[None] if rows.ndim == 1 else rows.detach()
