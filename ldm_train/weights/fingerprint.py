"""A name for what a frozen part computes: a hash of its weights and its kind, or of the files that hold them."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

SHIPPED = Path(__file__).parents[1] / "autoencoders" / "pretrained"
SUFFIXES = {".bin", ".ckpt", ".json", ".pt", ".pth", ".safetensors", ".yaml", ".yml"}


def fingerprint(module: "nn.Module") -> str:
    """SHA-256 over the class, and each tensor's name, shape, type and bytes; hexadecimal."""
    return digest_tensors(module.state_dict(), kind=type(module).__name__)


def digest_tensors(tensors: Mapping[str, "Tensor"], *, kind: str = "") -> str:
    """Return the SHA-256 over a kind, and each tensor's name, shape, type and bytes; hexadecimal."""
    # Here, since the files below are read by what has no time to import it.
    import torch

    digest = hashlib.sha256(kind.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def files_digest(path: Path) -> str:
    """SHA-256 over the names and bytes of the weights and configs in a folder, at any depth, or of one file; hexadecimal.

    Names are relative to the folder, so it may move. Without torch, and without a model: the disk's speed.

    Raises:
        ValueError: there is no such file or folder, or nothing in it to tell one from another.
    """
    folder = path if path.is_dir() else path.parent
    files = [f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file()] if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(f"{path} is neither a file nor a folder with weights ({', '.join(sorted(SUFFIXES))})")
    digest = hashlib.sha256()
    for name, file in sorted((f.relative_to(folder).as_posix(), f) for f in files):
        # Neither can be taken for the other: a name has no NUL, and a hash has its length.
        digest.update(os.fsencode(name) + b"\0" + hash_file(file))
    return digest.hexdigest()


def weights_digest(weights: str | None, subfolder: str | None = None, *, part: str = "") -> str | None:
    """`files_digest` of what a config names as weights: "" where it names none, None where they are not on this machine.

    Args:
        part: the subfolder that is taken of a whole pipeline's folder where none is given.
    """
    if weights is None:
        return ""
    path = (SHIPPED / weights if (SHIPPED / weights).is_dir() else Path(weights)) / (subfolder or "")
    if part and (path / part).is_dir() and not (path / "config.json").is_file():
        path = path / part
    try:
        return files_digest(path)
    except ValueError:
        return None


def hash_file(path: Path) -> bytes:
    """SHA-256 of a file's bytes, which need not fit into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
