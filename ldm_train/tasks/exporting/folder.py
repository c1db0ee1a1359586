"""A folder that is there whole or not at all, and takes the place of none but what an export has written."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from ldm_train.weights.files import read_told
from ldm_train.weights.folders import read_json
from ldm_train.weights.lazily import Tensors
from ldm_train.weights.streaming import stream

MARK = "export.json"
LOSE = "choose another, or overwrite=true to lose what is in it"
PYTORCH = {"format": "pt"}  # without which transformers and diffusers refuse a file


def refuse_existing(out: Path, *, overwrite: bool, keep: Path) -> None:
    """Refuse a folder whose content would be lost.

    Args:
        keep: the run, which no setting may overwrite.

    Raises:
        ValueError: it is one that no export has written, holds more than that, or is the run's own.
    """
    here, run = out.resolve(), keep.resolve()
    if here == run or here in run.parents or here == Path.cwd() or here in Path.cwd().parents:
        raise ValueError(f"out={out} is the run's own folder, this one, or around it; choose another out")
    if overwrite or not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MARK).is_file():
        raise ValueError(f"out={out} is there already, and was not written by `ldm-train export`; {LOSE}")
    if own := sorted(contents(out).items() - read_json(out / MARK).get("files", {}).items()):
        raise ValueError(
            f"out={out} was written by `ldm-train export`, but since then {', '.join(name for name, _ in own[:3])}"
            f"{f' and {len(own) - 3} more files' if len(own) > 3 else ''} came or changed; {LOSE}"
        )


def refuse_existing_file(out: Path, *, overwrite: bool) -> None:
    """Refuse a file that would be lost.

    Raises:
        ValueError: it is one that no export has written.
    """
    if out.exists() and not overwrite and not is_own_file(out):
        raise ValueError(f"out={out} is there already, and was not written by `ldm-train export`; {LOSE}")


def is_own_file(path: Path) -> bool:
    """Whether an export has written it, under our own names."""
    try:
        return "weights" in read_told(path)
    except ValueError:
        return False


def contents(folder: Path) -> dict[str, int]:
    """The bytes of each file in a folder, but for the one that says this."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.stat().st_size for name, path in files.items() if name != MARK}


@contextmanager
def whole_folder(out: Path, told: Mapping[str, object]) -> Iterator[Path]:
    """A folder to write into, which is `out` afterwards; if anything fails, what was there stays."""
    writing, replaced = out.with_name(f"{out.name}.writing"), out.with_name(f"{out.name}.replaced")
    remove(writing)
    writing.mkdir(parents=True)
    try:
        yield writing
        write_json(writing / MARK, {**told, "files": contents(writing)})
        if out.exists():
            remove(replaced)
            out.rename(replaced)
        writing.rename(out)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        if replaced.exists() and not out.exists():
            replaced.rename(out)
        raise
    remove(replaced)


def remove(path: Path) -> None:
    """A file, or a folder with all that is in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Tensors, *, dtype: torch.dtype, metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file, one tensor after another, with a bar that tells how many are written."""
    with Progress(transient=True) as progress:
        task = progress.add_task(path.name, total=len(tensors))

        def make(name: str) -> Tensor:
            progress.advance(task)
            return tensors[name]

        stream(path, tensors.shapes, make, dtype=dtype, metadata={**PYTORCH, **(metadata or {})})
