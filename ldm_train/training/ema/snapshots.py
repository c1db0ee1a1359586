"""Averages of the weights on disk: `run_dir/ema/step-….safetensors`, each with the averages of all lengths at one step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.training.run_files import RUN_ID, check_same_run, numbered_steps
from ldm_train.util.files import remove_files
from ldm_train.weights.tensor_files import read_metadata, write_tensor_file

SNAPSHOT_FOLDER = "ema"
SNAPSHOT_DTYPES = ("float16", "float32", "float64")  # not bfloat16: averaging changes less than its three digits


@dataclass(frozen=True)
class SnapshotSettings:
    """How averages are stored.

    Args:
        every: optimizer steps.
        dtype: float16 halves the size of float32 and errs by 2e-4 of the weights: 2 % of the change that averaging makes, if
            that is a hundredth of the weights.
    """

    every: int = 500
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"ema.snapshot_every={self.every} must be at least 1 optimizer step")
        if self.dtype not in SNAPSHOT_DTYPES:
            raise ValueError(f"ema.dtype={self.dtype} is not a dtype for snapshots; accepted: {', '.join(SNAPSHOT_DTYPES)}")


@dataclass(frozen=True)
class Snapshot:
    """The metadata of a snapshot's file.

    Args:
        step: the optimizer step after which it was written.
        updates: number of updates of the averages, counted from `start_step`.
        start_step: the optimizer step after which averaging started.
        lengths: lengths of the averages in it.
        run_id: the identity of its run.
    """

    path: Path
    step: int
    updates: int
    start_step: int
    lengths: tuple[float, ...]
    run_id: object = None


def name_in_snapshot(length: float, parameter: str) -> str:
    """Return the name that a parameter's average of this length has in a snapshot."""
    return f"{length}/{parameter}"


def write_snapshot(
    folder: Path,
    averages: Mapping[float, Mapping[str, Tensor]],
    *,
    step: int,
    updates: int,
    start_step: int,
    dtype: str,
    run_id: object = None,
) -> Snapshot:
    """Store averages by their lengths, and return the snapshot.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {
        name_in_snapshot(length, name): tensor.detach().to("cpu", getattr(torch, dtype))
        for length, average in averages.items()
        for name, tensor in average.items()
    }
    snapshot = Snapshot(folder / f"step-{step:08d}.safetensors", step, updates, start_step, tuple(averages), run_id)
    metadata = {"step": step, "updates": updates, "start_step": start_step, "lengths": list(averages), RUN_ID: run_id}
    write_tensor_file(snapshot.path, tensors, metadata)
    return snapshot


def read_snapshots(run_dir: Path) -> list[Snapshot]:
    """Return all snapshots of a run, sorted by step.

    Raises:
        ValueError: a file there cannot be read, is none of these, or is another run's.
    """
    snapshots = [read_snapshot(path) for path in numbered_steps(run_dir / SNAPSHOT_FOLDER, ".safetensors").values()]
    check_same_run(run_dir, {snapshot.path: snapshot.run_id for snapshot in snapshots})
    return snapshots


def read_snapshot(path: Path) -> Snapshot:
    """Return the metadata of one snapshot.

    Raises:
        ValueError: the file cannot be read, or is not a snapshot.
    """
    metadata = read_metadata(path)
    if not {"step", "updates", "start_step", "lengths"} <= metadata.keys():
        raise ValueError(f"{path} is not a snapshot of averages: its metadata lacks step, updates or lengths")
    return Snapshot(
        path, metadata["step"], metadata["updates"], metadata["start_step"], tuple(metadata["lengths"]), metadata.get(RUN_ID)
    )


def remove_later_snapshots(run_dir: Path, step: int) -> None:
    """Remove the snapshots of steps later than the one that a run continues from."""
    remove_files(path for at, path in numbered_steps(run_dir / SNAPSHOT_FOLDER, ".safetensors").items() if at > step)


def list_lengths(snapshots: Sequence[Snapshot]) -> list[float]:
    """Return every length of the snapshots once, sorted."""
    return sorted({length for snapshot in snapshots for length in snapshot.lengths})
