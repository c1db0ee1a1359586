"""A checkpoint in shares: its file holds all but the large tensors, and names a folder where each process wrote its part.

The file is renamed into place after the folder is whole, so that a checkpoint in shares is replaced as one in a single file
is: at once. The parts are safetensors by PyTorch's distributed checkpointing, which any number of processes reads back. It
is imported only where there are shares.
"""

import json
import secrets
import shutil
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ldm_train.training.run_files import SHARES_FOLDER
from ldm_train.util.files import flush_file, flush_folder, make_folder

Tree = object  # nested dicts, lists and tuples of tensors and plain values
Keys = tuple[str | int, ...]

SHARES = "shares"  # the key of a checkpoint that names its folder and the files there, with their checksums
MARK = "in the shares: "  # stands in the place of a tensor, before its name
SUFFIX = ".shares"
BLOCK = 2**20  # bytes that are read at once


def mapped(tree: Tree, change: Callable[[Keys, Tree], Tree], keys: Keys = ()) -> Tree:
    """Return the same tree with every leaf changed by a function of its keys from the root and its value."""
    if isinstance(tree, Mapping):
        return {key: mapped(value, change, (*keys, key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(value, change, (*keys, number)) for number, value in enumerate(tree))
    return change(keys, tree)


def new_folder(path: Path) -> Path:
    """Make the folder for the shares of a checkpoint at `path`, of a name that nothing refers to yet."""
    folder = path.with_name(f"{path.stem}-{secrets.token_hex(4)}{SUFFIX}")
    make_folder(folder)
    return folder


def write_shares(checkpoint: Mapping[str, Tree], folder: Path) -> dict[str, Tree]:
    """Write this process's part of every sharded tensor; what is left for the file. All processes call it together.

    Raises:
        OSError: some process could not write; nothing is left of the folder.
    """
    from torch.distributed import checkpoint as dcp
    from torch.distributed.tensor import DTensor

    tensors: dict[str, Tensor] = {}

    def take(keys: Keys, leaf: Tree) -> Tree:
        if not isinstance(leaf, DTensor):
            return leaf
        name = "/".join(str(key) for key in keys)
        tensors[name] = leaf.detach()
        return MARK + name

    rest = {key: mapped(value, take, (key,)) for key, value in checkpoint.items()}
    try:
        dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except dcp.CheckpointException as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"a process could not write its share: {reason(error)}") from error
    flush_shares(folder)
    return rest | {SHARES: {"folder": folder.name, "files": file_checksums(sorted(folder.iterdir()))}}


def file_checksums(files: Sequence[Path]) -> dict[str, int]:
    """Return the CRC-32 of each file by its name. The processes share the reading, and must call it together.

    Raises:
        OSError: one of them could not read a file, on all of them.
    """
    if not dist.is_initialized():
        return {file.name: file_checksum(file) for file in files}
    listed = [list(files)]
    dist.broadcast_object_list(listed)  # what a process sees of a network's file system may be older
    parts: list[dict[str, int] | str] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, _try_file_checksums(listed[0][dist.get_rank() :: len(parts)]))
    failures = [part for part in parts if isinstance(part, str)]
    if failures:
        raise OSError(f"a share cannot be read again: {failures[0]}")
    found = {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}
    return dict(sorted(found.items()))


def _try_file_checksums(files: Sequence[Path]) -> dict[str, int] | str:
    """Checksums, or what went wrong: a process that ended here would leave the others waiting."""
    try:
        return {file.name: file_checksum(file) for file in files}
    except OSError as error:
        return str(error)


def file_checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    return value


def damaged_shares(checkpoint: Mapping[str, Tree], path: Path) -> list[Path]:
    """Return the files of shares that do not have their checksums. This reads all of them."""
    shares = checkpoint.get(SHARES)
    if shares is None:
        return []
    assert isinstance(shares, Mapping)
    files = {path.parent / shares["folder"] / name: value for name, value in shares["files"].items()}
    return [file for file, value in files.items() if file_checksum(file) != value]


def flush_shares(folder: Path) -> None:
    """Flush what every process wrote, before any of them goes on: each can only flush its own machine's writes.

    Raises:
        OSError: some process could not; nothing is left of the folder.
    """
    problem: str | None = None
    try:
        for file in folder.iterdir():
            flush_file(file)
        flush_folder(folder)
    except OSError as error:
        problem = str(error)
    problems = [problem]
    if torch.distributed.is_initialized():
        problems = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(problems, problem)
    if any(problems):
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"a process could not write its share in {folder}: {next(filter(None, problems))}")


def whole(checkpoint: dict[str, Tree], path: Path, empty: Callable[..., Tensor] = torch.empty) -> dict[str, Tree]:
    """A loaded checkpoint with its tensors in their places, where it is one in shares.

    Args:
        path: where its file lies.
        empty: (size, dtype=...) to a tensor to read into; where it gives sharded ones, all processes call this together.

    Raises:
        ValueError: its shares are not there, or not whole.
    """
    if SHARES not in checkpoint:
        return checkpoint
    missing = missing_shares(checkpoint, path)
    if missing:
        names_missing = ", ".join(share.name for share in missing)
        raise ValueError(
            f"{path} has its tensors in {missing[0].parent}, where {names_missing} is missing; copy both together"
        )
    shares = checkpoint[SHARES]
    assert isinstance(shares, Mapping)
    folder = path.parent / shares["folder"]
    names: list[str] = []
    mapped(checkpoint, lambda _, leaf: names.append(leaf.removeprefix(MARK)) if _is_mark(leaf) else None)  # type: ignore[attr-defined]
    tensors = _read(folder, names, empty)
    filled = mapped(checkpoint, lambda _, leaf: tensors[str(leaf).removeprefix(MARK)] if _is_mark(leaf) else leaf)
    assert isinstance(filled, dict)
    return {key: value for key, value in filled.items() if key != SHARES}


def missing_shares(checkpoint: Mapping[str, Tree], path: Path) -> list[Path]:
    """The files of shares that a checkpoint names and that are not there."""
    shares = checkpoint.get(SHARES)
    if shares is None:
        return []
    assert isinstance(shares, Mapping)
    files = [path.parent / shares["folder"] / name for name in shares["files"]]
    return [file for file in files if not file.is_file()]


def _read(folder: Path, names: Sequence[str], empty: Callable[..., Tensor]) -> dict[str, Tensor]:
    """Tensors by name from all files of a folder, each process as much as its tensors hold."""
    from torch.distributed import checkpoint as dcp
    from torch.distributed.tensor import DTensor

    try:
        stored = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        tensors = {}
        for name in names:
            about = stored[name]
            assert isinstance(about, dcp.TensorStorageMetadata)
            tensors[name] = empty(about.size, dtype=about.properties.dtype)
        sharded = any(isinstance(tensor, DTensor) for tensor in tensors.values())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
            dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=not sharded)
    except (dcp.CheckpointException, KeyError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} cannot be read as the shares of a checkpoint: {reason(error)}") from error
    return tensors


def _is_mark(leaf: Tree) -> bool:
    return isinstance(leaf, str) and leaf.startswith(MARK)


def reason(error: BaseException) -> str:
    """The first process's failure in one line, without the traces that travel along."""
    from torch.distributed.checkpoint import CheckpointException

    failures = list(error.failures.values()) if isinstance(error, CheckpointException) else []
    first = failures[0][0] if failures else error
    return (str(first) or type(first).__name__).splitlines()[0]


def remove_unnamed_shares(folder: Path) -> None:
    """Delete the shares that no checkpoint of a folder names: those of replaced ones, and of writing that was cut short.

    None are while there is a checkpoint that cannot be read, for what it names is not known.
    """
    shares = {path for path in folder.glob(f"*{SUFFIX}") if SHARES_FOLDER.fullmatch(path.name) and path.is_dir()}
    for path in folder.glob("*.ckpt") if shares else ():
        try:
            named = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get(SHARES)
        except Exception:  # unpickling reports damage by many classes
            return
        shares -= {folder / named["folder"]} if named else set()
    for unnamed in shares:
        shutil.rmtree(unnamed)
