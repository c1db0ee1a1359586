"""Vectors of new words as files: written at the end of a run that trained them, and read before a run draws.

The layout is the one that web interfaces and diffusers load: safetensors with the word's name and its vectors (N, D), or
`emb_params` in a file that is named as the word.
"""

from pathlib import Path

from omegaconf import ListConfig
from torch import Tensor, nn

from ldm_train.encoders.conditioner import TextEncoder
from ldm_train.weights.files import read, write

FILE = "learned_embeds.safetensors"
UNNAMED = "emb_params"  # in files of web interfaces


def keep_words(run_dir: Path, text_encoder: nn.Module) -> None:
    """Write the vectors of new words into a run's directory, where its text encoder has some."""
    vectors = text_encoder.new_vectors() if isinstance(text_encoder, TextEncoder) else {}
    if vectors:
        write(run_dir / FILE, {word: rows.cpu() for word, rows in vectors.items()}, {})
        print(f"the vectors of {', '.join(vectors)} are in {run_dir / FILE}")


def add_embeddings(setting: object, text_encoder: nn.Module) -> None:
    """Have the text encoder know the words of these files.

    Raises:
        ValueError: no such file, another text encoder's vectors, or a text encoder without words.
    """
    files = [str(file) for file in setting] if isinstance(setting, ListConfig) else [] if setting is None else [str(setting)]
    for file in files:
        if not isinstance(text_encoder, TextEncoder):
            raise ValueError(f"embeddings={file}: this run's text encoder knows classes, not words")
        try:
            text_encoder.add_words(read_words(Path(file)))
        except ValueError as error:
            raise ValueError(f"embeddings={file}: {error}") from error


def read_words(path: Path) -> dict[str, Tensor]:
    """A file's words and their vectors (N, D).

    Raises:
        ValueError: it is no such file.
    """
    path = path / FILE if path.is_dir() else path
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(f"{path} is no .safetensors file; a run that trained new words has one, {FILE}")
    named = {path.stem if name == UNNAMED else name: rows for name, rows in read(path).items()}
    return {word: rows[None] if rows.ndim == 1 else rows for word, rows in named.items()}
