"""Averages of the weights on disk: `run_dir/ema/step-….safetensors`, each with the averages of all lengths at a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.training.run_files import RUN_ID, check_same_run, numbered_steps
from ldm_train.util.files import remove_files
from ldm_train.weights.tensor_files import read_metadata, write_tensor_file

FOLDER = "ema"
DTYPES = ("float16", "float32", "float64")  # bfloat16's three digits are fewer than what averaging changes


@dataclass(frozen=True)
class SnapshotSettings:
    """How averages are stored.

    Args:
        every: optimizer steps.
        dtype: float16 takes half of float32's place. It errs by 2e-4 of the weights: 2 % of what averaging changes of them
            where that is a hundredth of the weights.
    """

    every: int = 500
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"ema.snapshot_every={self.every} must be at least 1 optimizer step")
        if self.dtype not in DTYPES:
            raise ValueError(f"ema.dtype={self.dtype} is not a type to store averages in; accepted: {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Snapshot:
    """What a file tells of itself.

    Args:
        step: the optimizer step after which it was written.
        updates: of the averages until then, since they started after `start_step`.
        lengths: of the averages in it.
        run_id: the identity of its run.
    """

    path: Path
    step: int
    updates: int
    start_step: int
    lengths: tuple[float, ...]
    run_id: object = None


def name_in_snapshot(length: float, parameter: str) -> str:
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
    """Store averages by their lengths.

    Raises:
        OSError: the disk is full, or the like.
    """
    tensors = {
        name_in_snapshot(length, name): tensor.detach().to("cpu", getattr(torch, dtype))
        for length, average in averages.items()
        for name, tensor in average.items()
    }
    snapshot = Snapshot(folder / f"step-{step:08d}.safetensors", step, updates, start_step, tuple(averages), run_id)
    told = {"step": step, "updates": updates, "start_step": start_step, "lengths": list(averages), RUN_ID: run_id}
    write_tensor_file(snapshot.path, tensors, told)
    return snapshot


def read_snapshots(run_dir: Path) -> list[Snapshot]:
    """What a run has stored, by step.

    Raises:
        ValueError: a file there cannot be read, is none of these, or is another run's.
    """
    snapshots = [read_snapshot(path) for path in numbered_steps(run_dir / FOLDER, ".safetensors").values()]
    check_same_run(run_dir, {snapshot.path: snapshot.run_id for snapshot in snapshots})
    return snapshots


def read_snapshot(path: Path) -> Snapshot:
    """What one file tells of itself.

    Raises:
        ValueError: it cannot be read, or is none of these.
    """
    told = read_metadata(path)
    if not {"step", "updates", "start_step", "lengths"} <= told.keys():
        raise ValueError(f"{path} is no snapshot of averages: it does not tell its step, updates and lengths")
    return Snapshot(path, told["step"], told["updates"], told["start_step"], tuple(told["lengths"]), told.get(RUN_ID))


def drop_later(run_dir: Path, step: int) -> None:
    """Remove the snapshots that a run wrote after the step that it continues from."""
    remove_files(path for at, path in numbered_steps(run_dir / FOLDER, ".safetensors").items() if at > step)


def lengths_in(snapshots: Sequence[Snapshot]) -> list[float]:
    """Every length that is stored, once."""
    return sorted({length for snapshot in snapshots for length in snapshot.lengths})
