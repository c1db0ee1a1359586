"""Files of new words' vectors: written at the end of a run that trained them, and read before a run draws."""

from pathlib import Path
from urllib.parse import quote

from torch import nn

from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.util.messages import note
from ldm_train.weights.embedding_files import EMBEDDINGS_FILE, read_embeddings
from ldm_train.weights.tensor_files import write_tensor_file


def write_words(folder: Path, text_encoder: nn.Module) -> list[str]:
    """Write the vectors of a text encoder's new words into a folder, and return the lines to print.

    Of several words each has a file of its own, because diffusers and web interfaces read one word of a file.
    """
    vectors = text_encoder.new_vectors() if isinstance(text_encoder, TextEncoder) else {}
    if not vectors:
        return []
    own = {word: rows.cpu() for word, rows in vectors.items()}
    write_tensor_file(folder / EMBEDDINGS_FILE, own, {})
    if len(own) == 1:
        return [f"the vectors of {next(iter(own))} are in {EMBEDDINGS_FILE}"]
    each = Path(EMBEDDINGS_FILE).stem
    for word, rows in own.items():
        write_tensor_file(folder / each / f"{quote(word, safe='<>')}.safetensors", {word: rows}, {})
    return [f"the vectors of {', '.join(own)} are in {EMBEDDINGS_FILE}, and each word's by themselves in the folder {each}"]


def add_embeddings(files: str | list[str] | None, text_encoder: nn.Module) -> None:
    """Add the words in these files to the text encoder.

    Raises:
        ValueError: no such file, another text encoder's vectors, or a text encoder without words.
    """
    for file in [files] if isinstance(files, str) else files or []:
        if not isinstance(text_encoder, TextEncoder):
            raise ValueError(
                f"embeddings={file}: this run is conditioned by {type(text_encoder).__name__}, which takes no new words"
            )
        try:
            words = read_embeddings(Path(file))
            text_encoder.add_words(words)
        except ValueError as error:
            raise ValueError(f"embeddings={file}: {error}") from error
        known = ", ".join(f"{word} ({len(rows)} tokens)" for word, rows in words.items())
        note(f"embeddings={file}: prompts may have {known}")
