"""Write vectors of words for TensorBoard's embedding projector: a folder that `tensorboard --logdir DIR` opens."""

import json
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.commands.tokens.opened_encoder import OpenedEncoder
from ldm_train.conditioners.token_pieces import embed_pieces, list_token_vectors, split_text
from ldm_train.data.pictures.labelled_grid import draw_label_sheet
from ldm_train.util.files import atomic_write, make_folder
from ldm_train.util.messages import note
from ldm_train.util.ownership import PROJECTOR

LABELS, SPRITES = "labels.tsv", "sprites.png"
LARGEST_SHEET = 8192  # pixels a side; the projector refuses larger ones
SIDES = (128, 96, 64)  # of a word's square in the sheet, pixels: the first with which all words fit
NAMES = {"before": "before the transformer", "after": "after the transformer", "start": "before the training"}


def write_projector(opened: OpenedEncoder, words: Sequence[str], folder: Path) -> list[str]:
    """Write the vectors of words, with their labels and a picture of each word, and return the names of the files.

    A word of several tokens has the mean of their vectors. A word without tokens, such as a blank, is left out.
    """
    pieces = {word: split_text(opened.encoder, word)[: opened.encoder.capacity] for word in words}
    kept = [word for word in words if pieces[word]]
    if not kept:
        raise ValueError("words: none of them has a token; give words or texts")
    numbers = {word: [piece.number for piece in pieces[word]] for word in kept}
    tables = {"before": _look_up(list_token_vectors(opened.encoder), numbers, kept)}
    tables["after"] = torch.stack([embed_pieces(opened.encoder, word).mean(0) for word in kept])
    if opened.start is not None:
        tables["start"] = _look_up(opened.start, numbers, kept)
    make_folder(folder)
    side = choose_side(len(kept))
    files = [*(f"{name}.tsv" for name in tables), LABELS, *[SPRITES] * (side is not None), "projector_config.pbtxt"]
    # The mark first, so that the next command knows the files after a kill.
    atomic_write(folder / PROJECTOR.mark, json.dumps({"files": files, "words": len(kept)}, indent=2) + "\n")
    for name, vectors in tables.items():
        rows = ("\t".join(f"{value:.7g}" for value in row) for row in vectors.tolist())
        atomic_write(folder / f"{name}.tsv", "".join(f"{row}\n" for row in rows))
    labels = ["word\ttokens", *(f"{_label(word)}\t{len(numbers[word])}" for word in kept)]
    atomic_write(folder / LABELS, "".join(f"{label}\n" for label in labels))
    if side is None:
        note(f"note: {len(kept):,} words are too many for pictures of them, so the projector shows points")
    else:
        content = BytesIO()
        # As many rows as columns: TensorBoard takes one for the other where the mouse points at a picture.
        sheet = draw_label_sheet([_label(word) for word in kept], columns=math.ceil(math.sqrt(len(kept))), side=side)
        sheet.save(content, "PNG", optimize=True)
        atomic_write(folder / SPRITES, content.getvalue())
    described = "".join(_describe(name, vectors, side) for name, vectors in tables.items())
    atomic_write(folder / "projector_config.pbtxt", described)
    for name in {"start.tsv", SPRITES}.difference(files):
        (folder / name).unlink(missing_ok=True)
    return files


def choose_side(count: int) -> int | None:
    """Return the side of each word's square in a sheet that the projector accepts; None if it would be too small."""
    columns = math.ceil(math.sqrt(count))
    return next((side for side in SIDES if columns * side <= LARGEST_SHEET), None)


def _look_up(vectors: Tensor, numbers: dict[str, list[int]], words: Sequence[str]) -> Tensor:
    return torch.stack([vectors[numbers[word]].mean(0) for word in words])


def _label(word: str) -> str:
    return " ".join(word.split())


def _describe(name: str, vectors: Tensor, side: int | None) -> str:
    """Return a table's entry in the projector's configuration, a protocol buffer as text."""
    sprites = ""
    if side is not None:
        sprites = f'  sprite {{\n    image_path: "{SPRITES}"\n' + 2 * f"    single_image_dim: {side}\n" + "  }\n"
    shape = "".join(f"  tensor_shape: {size}\n" for size in vectors.shape)
    files = f'  tensor_path: "{name}.tsv"\n  metadata_path: "{LABELS}"\n'
    return f'embeddings {{\n  tensor_name: "{NAMES[name]}"\n{shape}{files}{sprites}}}\n'
