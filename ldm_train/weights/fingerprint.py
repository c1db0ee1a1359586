"""Identify frozen parts by their weights: a hash of the tensors, or of the files that contain them."""

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

SHIPPED = Path(__file__).parents[1] / "autoencoders" / "pretrained"
SUFFIXES = {".bin", ".ckpt", ".json", ".model", ".pt", ".pth", ".safetensors", ".yaml", ".yml"}
VOCABULARIES = {"merges.txt", "vocab.txt"}  # of tokenizers; other texts are notes


def fingerprint_module(module: "nn.Module") -> str:
    """Return the SHA-256 over a module's class and tensors; see `digest_tensors`."""
    return digest_tensors(module.state_dict(), kind=type(module).__name__)


def digest_tensors(tensors: Mapping[str, "Tensor"], *, kind: str = "") -> str:
    """Return the SHA-256 over a kind, and each tensor's name, shape, type and bytes; hexadecimal."""
    # Imported here because the functions below are also called by commands that start without torch.
    import torch

    digest = hashlib.sha256(kind.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def belongs_to_model(path: Path) -> bool:
    return path.is_file() and (path.suffix.lower() in SUFFIXES or path.name in VOCABULARIES)


def digest_files(path: Path) -> str:
    """Return the SHA-256 over the names and bytes of all files of a model below a folder, or of one file; hexadecimal.

    Names are relative to the folder, so moving it changes nothing. Neither torch nor the model is loaded.

    Raises:
        ValueError: there is no such file or folder, or the folder contains no weights or configs.
    """
    folder = path if path.is_dir() else path.parent
    files = [f for f in path.rglob("*") if belongs_to_model(f)] if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(f"{path} is neither a file nor a folder that contains weights ({', '.join(sorted(SUFFIXES))})")
    digest = hashlib.sha256()
    for name, file in sorted((f.relative_to(folder).as_posix(), f) for f in files):
        # Unambiguous: a name contains no NUL, and a hash has a fixed length.
        digest.update(os.fsencode(name) + b"\0" + hash_file(file))
    return digest.hexdigest()


def digest_weights(weights: str | None, subfolder: str | None = None, *, part: str = "") -> str | None:
    """Return `digest_files` of the weights that a config names: "" if it names none, None if they are not on this machine.

    Args:
        part: the subfolder to take if `weights` is a pipeline's folder and no subfolder is given.
    """
    if weights is None:
        return ""
    path = (SHIPPED / weights if (SHIPPED / weights).is_dir() else Path(weights)) / (subfolder or "")
    if part and (path / part).is_dir() and not (path / "config.json").is_file():
        path = path / part
    try:
        return digest_files(path)
    except ValueError:
        return None


def name_weights(weights: str) -> str:
    """Return what tells weights from others: the digest of a file, which is read once, or else their name."""
    path = Path(weights)
    if not path.is_file():
        return weights
    state = path.stat()
    return _digest_once(path, state.st_mtime_ns, state.st_size)


@cache
def _digest_once(path: Path, changed: int, size: int) -> str:
    return digest_files(path)


def hash_file(path: Path) -> bytes:
    """Return the SHA-256 of a file's bytes, which need not fit into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
