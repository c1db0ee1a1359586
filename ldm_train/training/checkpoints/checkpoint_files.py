"""Checkpoints as files: whole or absent, the newest found again, the older ones kept as far as one asks for it."""

import shlex
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ldm_train.training.checkpoints.sharded_checkpoint import damaged_shares, missing_shares
from ldm_train.training.run_files import RUN_ID, check_same_run, numbered_steps
from ldm_train.util.files import link_file, remove_files
from ldm_train.util.messages import warn

BEST = "best.ckpt"


def last_checkpoint(run_dir: Path) -> Path:
    """Where a run's newest checkpoint lies."""
    return run_dir / "checkpoints" / "last.ckpt"


def read_step(path: Path) -> int:
    """Return the step of a checkpoint; its tensors are mapped, not read.

    Raises:
        ValueError: it cannot be read, or not without running code from it, or its shares are not there.
    """
    try:
        return int(_mapped(path)["global_step"])
    except Exception as error:  # unpickling reports damage by many classes
        raise ValueError(f"{path} cannot be read as a checkpoint of this project: {_reason(error)}") from error


def _mapped(path: Path) -> dict[str, Any]:
    """Return a checkpoint with all its shares; its tensors are mapped, not read."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if missing := missing_shares(checkpoint, path):
        raise FileNotFoundError(f"its shares {', '.join(map(str, missing))} are missing; copy both together")
    return checkpoint


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def damage(path: Path) -> str | None:
    """Compare all bytes of a checkpoint with their checksums, and return what is wrong; None if it is whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is not None:
            return f"{wrong} in it does not have its checksum"
        checkpoint = _mapped(path)
        int(checkpoint["global_step"])
        if shares := damaged_shares(checkpoint, path):
            return f"its shares {', '.join(map(str, shares))} do not have their checksums"
    except Exception as error:  # a damaged archive is reported by many classes too
        return _reason(error)
    return None


def refuse_damaged(path: Path, *, run_dir: Path) -> None:
    """Raise if a checkpoint of a run is damaged. This reads every byte of it.

    Raises:
        ValueError: naming the file, and the checkpoints of the run that can take its place.
    """
    problem = damage(path)
    if problem is None:
        return
    whole_ones = [str(other) for other in checkpoints(run_dir) if other != path and damage(other) is None]
    if whole_ones:
        command = f"cp {shlex.quote(whole_ones[0])} {shlex.quote(str(path))}"
        advice = f"not damaged: {', '.join(whole_ones)}; copy one over it: {command}"
    else:
        advice = "this run has no other checkpoint that is whole; restore the file from a backup, or train again"
    raise ValueError(f"{path} cannot be read as a checkpoint of this project: it is damaged ({problem}); {advice}")


def newest_whole(run_dir: Path) -> Path | None:
    """The checkpoint to continue from: the last one, or where that is damaged, the newest that is not; None where is none.

    Raises:
        ValueError: there are some, and all are damaged.
    """
    last, found = last_checkpoint(run_dir), checkpoints(run_dir)
    for path in found:
        problem = damage(path)
        if problem is None:
            return path
        warn(f"{path} is damaged ({problem})")
    if found:
        raise ValueError(
            f"all checkpoints in {last.parent} are damaged; set resume=restart to remove them and start {run_dir} anew"
        )
    return None


def check_own_checkpoints(run_dir: Path) -> None:
    """Raise if a checkpoint that a run could be continued from is another run's; damaged ones are not looked at.

    Raises:
        ValueError: it names them, and what to do.
    """
    run_ids: dict[Path, object] = {}
    for path in checkpoints(run_dir):
        with suppress(Exception):  # unpickling reports damage by many classes
            run_ids[path] = _mapped(path).get(RUN_ID)
    check_same_run(run_dir, run_ids)


def checkpoints(run_dir: Path) -> list[Path]:
    """All that a run can be continued from: the last one, then the others, the newest first."""
    last, others = last_checkpoint(run_dir), {path: step for step, path in numbered(run_dir).items()}
    best = last.with_name(BEST)
    if best.is_file():
        try:
            others[best] = read_step(best)
        except ValueError:
            others[best] = -1
    return [path for path in (last, *sorted(others, key=lambda path: -others[path])) if path.is_file()]


def last_saved_step(run_dir: Path) -> int | None:
    """Return the step of the newest checkpoint that can be read; None if there is none."""
    for path in checkpoints(run_dir):
        with suppress(ValueError):
            return read_step(path)
    return None


def numbered(run_dir: Path) -> dict[int, Path]:
    """The checkpoints that are kept next to the last one, by step, in order."""
    return numbered_steps(last_checkpoint(run_dir).parent, ".ckpt")


def keep_as(last: Path, name: str) -> None:
    """Give the last checkpoint a second name, under which it stays when a newer one comes; a copy where links cannot be."""
    link_file(last, last.with_name(name))


def prune(run_dir: Path, *, keep: int, keep_every: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and those of every so many steps."""
    files = numbered(run_dir)
    old = list(files)[: max(0, len(files) - keep)]
    remove_files(files[step] for step in old if keep_every is None or step % keep_every)
