"""How Lightning writes and reads checkpoints: whole or absent, and of nothing that could only be read by running code."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from ldm_train.training.checkpoints.checkpoint_files import read_step
from ldm_train.training.checkpoints.sharded_checkpoint import Tree, whole
from ldm_train.util.files import atomic_path

STORABLE = (torch.Tensor, str, bytes, bool, int, float, NoneType, torch.dtype, torch.device)


class WholeFiles(TorchCheckpointIO):
    """Lightning's way to files, by which a checkpoint is written under another name, read again, flushed, and renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint, or have a function do it later.

        Args:
            storage_options: (checkpoint, write) to None, which calls `write` with a copy; None to write now.

        Raises:
            OSError: naming the file, what went wrong, and the room there is; what was at `path` is as it was.
            ValueError: a callback's state cannot be stored; it names the callback.
        """
        for name, state in checkpoint.get("callbacks", {}).items():
            check_state(name, state)
        write = partial(write_whole, Path(path))
        if storage_options is None:
            write(checkpoint)
        else:
            storage_options(checkpoint, write)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Return a checkpoint whose tensors are mapped: all ranks of a machine read the file's memory once.

        One in shares is put together, where the parameters are not sharded.
        """
        return whole(torch.load(path, map_location=map_location, weights_only=weights_only, mmap=True), Path(path))


def write_whole(path: Path, checkpoint: Tree) -> None:
    """Write a checkpoint to a file that is there only when all of it is.

    Raises:
        OSError: see `WholeFiles.save_checkpoint`.
    """
    # torch's writer reports a failed write by a RuntimeError, and reading it again by a ValueError.
    with atomic_path(path, failures=(RuntimeError, OSError, ValueError)) as temporary:
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
        read_step(temporary)


def check_state(name: str, state: object) -> None:
    """Raise if a callback's state holds what could be read again only by running code.

    Raises:
        ValueError: it names the callback and the kind of the value.
    """
    if (found := next(find_unstorable(state), None)) is not None:
        raise ValueError(
            f"the state_dict of the callback {name} holds a {type(found).__module__}.{type(found).__qualname__}, which a "
            "checkpoint does not keep; let it return tensors, numbers and texts, and lists and dictionaries of these"
        )


def find_unstorable(value: object) -> Iterator[object]:
    """Yield the values in a state that `torch.load(weights_only=True)` does not read."""
    if isinstance(value, Mapping):
        for item in (*value.keys(), *value.values()):
            yield from find_unstorable(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from find_unstorable(item)
    elif not isinstance(value, STORABLE) or type(value).__module__.partition(".")[0] not in ("builtins", "torch"):
        yield value
