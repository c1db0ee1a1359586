"""Write an export's folder atomically, and replace an existing one only if an export wrote it."""

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
from ldm_train.weights.exported_files import add_checksums
from ldm_train.weights.lazy_tensors import LazyTensors
from ldm_train.weights.streaming_writer import stream_tensors
from ldm_train.weights.tensor_files import read_metadata

PYTORCH = {"format": "pt"}  # transformers and diffusers refuse a file without it


def refuse_existing(out: Path, *, given: str, overwrite: bool, keep: Path) -> None:
    """Raise if a folder has files that the export must not remove.

    Args:
        out: the resolved path of the folder `given`.
        keep: the run directory, which is never overwritten.

    Raises:
        ValueError: no export wrote the folder, it has other files too, or it is a folder that is never overwritten.
    """
    check_replaceable(out, setting="out", given=given)
    run = keep.resolve()
    if out == run or out in run.parents:
        raise ValueError(f"out={given} is the run's own folder, or contains it; choose another out")
    if out.is_dir() and any(out.iterdir()) and not carries_mark(out, EXPORT):
        refuse_run_or_cache(out, given, below=overwrite)
    if overwrite:
        return
    try:
        check_folder(out, EXPORT, setting="out", given=given)
    except ValueError as error:
        raise ValueError(f"{error}; or set overwrite=true, which removes everything in it") from error
    if carries_mark(out, EXPORT) and (changed := sorted(list_contents(out).items() - read_written_files(out).items())):
        raise ValueError(
            f"out={given} was written by `ldm-train export`, but since then {list_names([name for name, _ in changed])} "
            "was added or changed; choose another out, or set overwrite=true, which removes everything in it"
        )


def refuse_existing_file(out: Path, *, overwrite: bool) -> None:
    """Raise if a file exists that no export has written.

    Raises:
        ValueError: there is such a file, or it is a folder.
    """
    try:
        check_file(out, is_own_file, setting="out")
    except ValueError as error:
        if not out.is_file():
            raise
        refuse_run_or_cache(out, str(out), below=False)
        if not overwrite:
            raise ValueError(f"{error}; or set overwrite=true, which replaces it") from error


def refuse_run_or_cache(out: Path, given: str, *, below: bool) -> None:
    """Raise if a path is inside a run directory or a cache, which are never overwritten.

    Args:
        below: whether to look for runs and caches inside `out` too.

    Raises:
        ValueError: naming the run directory or cache.
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
    """Return whether an export wrote this file, with ldm-train's names."""
    return "weights" in read_metadata(path)


def list_contents(folder: Path) -> dict[str, int]:
    """Return the bytes of each file in a folder, without the export's own record and files of the operating system."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not is_system_file(path))
    files = {
        path.relative_to(folder).as_posix(): path for path in paths if not is_in_system_folder(path.relative_to(folder))
    }
    return {name: path.stat().st_size for name, path in files.items() if name != EXPORT.mark}


def is_in_system_folder(path: Path) -> bool:
    return any(is_system_folder(name) for name in path.parts[:-1])


def read_written_files(folder: Path) -> dict[str, int]:
    """Return the bytes of each file as the export recorded them."""
    files = (read_mark(folder, EXPORT) or {}).get("files")
    return {name: size for name, size in files.items() if isinstance(size, int)} if isinstance(files, dict) else {}


@contextmanager
def write_whole_folder(
    out: Path, record: Mapping[str, object], *, check: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Yield a folder to write into that becomes `out` afterwards; if anything fails, the old `out` stays.

    Args:
        record: what the export's mark file states, in addition to the files.
        check: raises ValueError unless `out` may be replaced.
    """
    place = ReplacedFolder(out.resolve(), setting="out", check=check)
    with place.locked():
        place.start()
        yield place.new
        write_json(place.new / EXPORT.mark, add_checksums({**record, "files": list_contents(place.new)}, place.new))
        place.put_in_place()


def write_json(path: Path, content: Mapping[str, object]) -> None:
    atomic_write(path, json.dumps(content, indent=2) + "\n")


def write_tensors(
    path: Path,
    tensors: LazyTensors,
    *,
    dtype: torch.dtype,
    metadata: Mapping[str, object] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file one tensor at a time, with a progress bar.

    Args:
        metadata: ldm-train's own metadata of the file.
        texts: further texts for the header, which other programs read.
    """
    with Progress(transient=True) as progress:
        task = progress.add_task(path.name, total=len(tensors))

        def make(name: str) -> Tensor:
            progress.advance(task)
            return tensors[name]

        stream_tensors(path, tensors.shapes, make, dtype=dtype, metadata=metadata, texts={**PYTORCH, **(texts or {})})
