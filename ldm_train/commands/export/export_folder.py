"""A folder that is there whole or not at all, and takes the place of none but what an export has written."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from ldm_train.util.files import atomic_write
from ldm_train.util.ownership import (
    CACHE,
    EXPORT,
    RUN,
    carries_mark,
    check_file,
    check_folder,
    is_system_file,
    is_system_folder,
    read_mark,
)
from ldm_train.util.replacing import ReplacedFolder, check_replaceable
from ldm_train.util.text import list_names
from ldm_train.weights.lazy_tensors import LazyTensors
from ldm_train.weights.streaming_writer import stream_tensors
from ldm_train.weights.tensor_files import read_metadata

PYTORCH = {"format": "pt"}  # without which transformers and diffusers refuse a file


def refuse_existing(out: Path, *, given: str, overwrite: bool, keep: Path) -> None:
    """Refuse a folder with files that the export would remove.

    Args:
        out: the resolved path of the folder `given`.
        keep: the run, which no setting may overwrite.

    Raises:
        ValueError: no export wrote it, it holds more than that, or it is a folder that is never overwritten.
    """
    check_replaceable(out, setting="out", given=given)
    run = keep.resolve()
    if out == run or out in run.parents:
        raise ValueError(f"out={given} is the run's own folder, or contains it; choose another out")
    if out.is_dir() and any(out.iterdir()) and not carries_mark(out, EXPORT):
        refuse_ours(out, given, below=overwrite)
    if overwrite:
        return
    try:
        check_folder(out, EXPORT, setting="out", given=given)
    except ValueError as error:
        raise ValueError(f"{error}; or overwrite=true, which removes all that is in it") from error
    if carries_mark(out, EXPORT) and (changed := sorted(contents(out).items() - written(out).items())):
        raise ValueError(
            f"out={given} was written by `ldm-train export`, but since then {list_names([name for name, _ in changed])} "
            "came or changed; choose another out, or overwrite=true, which removes all that is in it"
        )


def refuse_existing_file(out: Path, *, overwrite: bool) -> None:
    """Refuse a file that no export has written.

    Raises:
        ValueError: it is one, or a folder.
    """
    try:
        check_file(out, is_own_file, setting="out")
    except ValueError as error:
        if not out.is_file():
            raise
        refuse_ours(out, str(out), below=False)
        if not overwrite:
            raise ValueError(f"{error}; or overwrite=true, which replaces it") from error


def refuse_ours(out: Path, given: str, *, below: bool) -> None:
    """Refuse what a run or a cache holds, which no setting may overwrite.

    Args:
        below: whether to look for runs and caches in `out` too.
    """
    places = [out, *out.resolve().parents]
    for kind in (RUN, CACHE):
        marked = [mark.parent for mark in out.rglob(kind.mark)] if below else []
        for place in [*places, *marked]:
            if carries_mark(place, kind):
                raise ValueError(
                    f"out={given}: {place} is {kind.noun}, which an export never overwrites; choose another out"
                )


def is_own_file(path: Path) -> bool:
    """Whether an export has written it, under our own names."""
    return "weights" in read_metadata(path)


def contents(folder: Path) -> dict[str, int]:
    """The bytes of each file in a folder, but for the one that says this and those of the system."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not is_system_file(path))
    files = {path.relative_to(folder).as_posix(): path for path in paths if not in_system_folder(path.relative_to(folder))}
    return {name: path.stat().st_size for name, path in files.items() if name != EXPORT.mark}


def in_system_folder(path: Path) -> bool:
    return any(is_system_folder(name) for name in path.parts[:-1])


def written(folder: Path) -> dict[str, int]:
    """The bytes of each file as the export wrote it."""
    files = (read_mark(folder, EXPORT) or {}).get("files")
    return {name: size for name, size in files.items() if isinstance(size, int)} if isinstance(files, dict) else {}


@contextmanager
def whole_folder(out: Path, told: Mapping[str, object], *, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder to write into, which is `out` afterwards; if anything fails, what was there stays.

    Args:
        check: raises ValueError unless `out` may be replaced.
    """
    place = ReplacedFolder(out.resolve(), setting="out", check=check)
    with place.locked():
        place.start()
        yield place.new
        write_json(place.new / EXPORT.mark, {**told, "files": contents(place.new)})
        place.put_in_place()


def write_json(path: Path, content: Mapping[str, object]) -> None:
    atomic_write(path, json.dumps(content, indent=2) + "\n")


def write_tensors(
    path: Path,
    tensors: LazyTensors,
    *,
    dtype: torch.dtype,
    told: Mapping[str, object] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """A safetensors file, one tensor after another, with a bar that tells how many are written."""
    with Progress(transient=True) as progress:
        task = progress.add_task(path.name, total=len(tensors))

        def make(name: str) -> Tensor:
            progress.advance(task)
            return tensors[name]

        stream_tensors(path, tensors.shapes, make, dtype=dtype, metadata=told, texts={**PYTORCH, **(metadata or {})})
