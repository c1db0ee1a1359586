"""A folder that is there whole or not at all, and takes the place of none but one that an export has written."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from ldm_train.weights.lazily import Tensors
from ldm_train.weights.streaming import stream

MARK = "export.json"
PYTORCH = {"format": "pt"}  # without which transformers and diffusers refuse a file


def refuse_existing(out: Path, *, overwrite: bool, keep: Path) -> None:
    """Refuse a folder whose content would be lost.

    Args:
        keep: the run, which no setting may overwrite.

    Raises:
        ValueError: it is one that no export has written, or the run's own.
    """
    here, run = out.resolve(), keep.resolve()
    if here == run or here in run.parents or here == Path.cwd() or here in Path.cwd().parents:
        raise ValueError(f"out={out} is the run's own folder, this one, or around it; choose another out")
    if overwrite or not out.exists() or (out / MARK).is_file():
        return
    if out.is_file() or any(out.iterdir()):
        raise ValueError(
            f"out={out} is there already, and was not written by `ldm-train export`; choose another, or overwrite=true "
            "to lose what is in it"
        )


@contextmanager
def whole_folder(out: Path, told: Mapping[str, object]) -> Iterator[Path]:
    """A folder to write into, which is `out` afterwards; if anything fails, what was there stays."""
    writing, replaced = out.with_name(f"{out.name}.writing"), out.with_name(f"{out.name}.replaced")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    try:
        yield writing
        write_json(writing / MARK, told)
        if out.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            out.rename(replaced)
        writing.rename(out)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
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
