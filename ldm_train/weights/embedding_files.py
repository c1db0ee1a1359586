"""Read files of textual inversions: new words and their vectors (N, D), in the formats of diffusers and of web UIs.

diffusers' files map a word to its vectors. Files of web UIs have the word as their file name and the vectors under
`emb_params`, or are pickles (.pt) with a `name` and the vectors under `string_to_param`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.util.text import list_names
from ldm_train.weights.lazy_tensors import load_pickle
from ldm_train.weights.tensor_files import read_tensor_file

EMBEDDINGS_FILE = "learned_embeds.safetensors"
UNNAMED = ("emb_params", "*")  # keys of vectors whose word is the file name
XL_NAMES = ("clip_l", "clip_g")
PICKLES = (".bin", ".pt")


def read_embeddings(path: Path) -> dict[str, Tensor]:
    """Return the words of a file, or of a run directory, with their vectors (N, D).

    Raises:
        ValueError: it is not a file of vectors, or contains anything else.
    """
    path = path / EMBEDDINGS_FILE if path.is_dir() else path
    if path.suffix not in (".safetensors", *PICKLES) or not path.is_file():
        raise ValueError(
            f"{path} is not a file of vectors (.safetensors, .bin or .pt), nor the directory of a run that trained "
            f"new words (which contains {EMBEDDINGS_FILE})"
        )
    named = _group_by_word(read_tensor_file(path) if path.suffix == ".safetensors" else load_pickle(path))
    if xl := sorted(named.keys() & set(XL_NAMES)):
        raise ValueError(
            f"{path} contains {list_names(xl)}, vectors for the two text encoders of Stable Diffusion XL, which are not "
            "supported; use an embedding that was made for this run's text encoder"
        )
    if not named:
        raise ValueError(f"{path} contains no vectors of a word; use a file that was saved as a textual inversion")
    return {path.stem if name in UNNAMED else name: _check_vectors(path, name, rows) for name, rows in named.items()}


def _group_by_word(content: object) -> dict[str, object]:
    """Return the vectors of each word in a file's content, without what web UIs add about the training."""
    if not isinstance(content, Mapping):
        return {}
    vectors = content.get("string_to_param", content)
    if content.get("name") and isinstance(vectors, Mapping) and vectors.keys() == {"*"}:
        return {str(content["name"]): vectors["*"]}
    return {str(name): rows for name, rows in vectors.items()} if isinstance(vectors, Mapping) else {}


def _check_vectors(path: Path, name: str, rows: object) -> Tensor:
    """Return a word's vectors as (N, D).

    Raises:
        ValueError: they are no dense floating-point vectors.
    """
    plain = isinstance(rows, Tensor) and rows.is_floating_point() and rows.layout == torch.strided
    if not isinstance(rows, Tensor) or not plain or rows.ndim not in (1, 2):
        what = f"{rows.dtype}, {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(f"{path} contains {name} as {what}; expected floating-point vectors of shape (N, D) or (D,)")
    return rows.detach()[None] if rows.ndim == 1 else rows.detach()
