"""Read a run's trained weights under ldm-train's names: from its checkpoint, or averaged afterwards from its snapshots."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm_train.assembly.control import has_control
from ldm_train.assembly.parts import build_parts
from ldm_train.assembly.stored_weights import complete_weights, read_weights
from ldm_train.assembly.trained_part import is_partial
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.ema.post_hoc import Combination, combine_tensors, fit_coefficients
from ldm_train.training.ema.profiles import gamma_of_length
from ldm_train.training.ema.snapshots import SNAPSHOT_FOLDER, Snapshot, list_lengths, name_in_snapshot, read_snapshots
from ldm_train.util.messages import warn
from ldm_train.weights.tensor_files import check_tensor, read_checksums

POOR = 0.05  # residual; for a random walk, the error is then about 1 % of the change that averaging makes


@dataclass(frozen=True)
class Export:
    """Weights under ldm-train's names, their step, and the metadata for their file."""

    weights: dict[str, Tensor]
    step: int
    metadata: dict[str, object]


def complete_export(trained: TrainSettings, run_dir: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return all weights of a run that trained only some: its own, those of its base, and adapters merged into them.

    Raises:
        ValueError: the run trained all of its weights, or a ControlNet.
    """
    if not is_partial(trained):
        raise ValueError(
            f"merge=true has nothing to merge: {run_dir} trained all weights (adapter=null trained=null); leave merge out"
        )
    if has_control(trained):
        raise ValueError(
            f"merge=true cannot merge the ControlNet of {run_dir}: it is computed next to the network; leave merge out, or "
            "set layout=controlnet"
        )
    return dict(complete_weights(weights, run_dir, build_parts(trained)))


def read_checkpoint_weights(run_dir: Path, weights: str) -> Export:
    """Return the averaged or raw weights of the last checkpoint.

    Raises:
        ValueError: they contain NaN or infinity.
    """
    state, step, path = read_weights(run_dir, weights)
    broken = sorted(name for name, tensor in state.items() if not tensor.isfinite().all())
    if broken:
        raise ValueError(
            f"the {weights} weights in {path} contain NaN or infinity, for example {broken[0]}: the training diverged"
        )
    return Export(dict(state), step, {"weights": weights})


def average_snapshots(run_dir: Path, *, length: float, step: int | None) -> Export:
    """Return the average of a relative length at a step, combined from all snapshots up to the first at or after it.

    Raises:
        ValueError: there are no snapshots, the step is outside of them, or they contain NaN or infinity.
    """
    snapshots = find_snapshots(run_dir, step)
    step = snapshots[-1].step if step is None else step
    stored = [(snapshot, own) for snapshot in snapshots for own in snapshot.lengths]
    combination = fit_coefficients(
        torch.tensor([snapshot.updates for snapshot, _ in stored]),
        torch.tensor([gamma_of_length(own) for _, own in stored], dtype=torch.float64),
        wished_t=snapshots[-1].updates - (snapshots[-1].step - step),
        wished_gamma=gamma_of_length(length),
    )
    if combination.residual > POOR:
        warn(
            f"{len(snapshots)} snapshots of lengths {', '.join(map(str, list_lengths(snapshots)))} approximate "
            f"ema_length={length} at step {step} with an error of {combination.residual:.0%}; choose a length between "
            "theirs or the step of a snapshot, or train with a smaller ema.snapshot_every"
        )
    weights = combine_snapshots(stored, combination)
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise ValueError(
            f"the averages in {run_dir / SNAPSHOT_FOLDER} up to step {step} contain NaN or infinity: the training diverged"
        )
    used = [
        {"step": snapshot.step, "length": own, "coefficient": coefficient}
        for (snapshot, own), coefficient in zip(stored, combination.coefficients.tolist(), strict=True)
    ]
    metadata = {"weights": "post-hoc", "ema_length": length, "residual": combination.residual, "combined": used}
    return Export(weights, step, metadata)


def find_snapshots(run_dir: Path, step: int | None) -> list[Snapshot]:
    """Return the snapshots of a run up to the first at or after a step, or all if the step is None.

    Raises:
        ValueError: there are no snapshots, or the step is outside of them.
    """
    snapshots = read_snapshots(run_dir)
    if not snapshots:
        raise ValueError(
            f"{run_dir / SNAPSHOT_FOLDER} holds no snapshots, which ema_length=… needs: train with ema=power (and "
            "ema.snapshot_every below the run's steps), or leave ema_length out to export the checkpoint's average"
        )
    first, last = snapshots[0].start_step + 1, snapshots[-1].step
    if step is not None and (not isinstance(step, int) or not first <= step <= last):
        raise ValueError(
            f"step={step} must be a step of the averages in {run_dir / SNAPSHOT_FOLDER}: from {first} to {last}"
        )
    end = next(n for n, snapshot in enumerate(snapshots) if step is None or snapshot.step >= step)
    return snapshots if step is None else snapshots[: end + 1]


def combine_snapshots(stored: Sequence[tuple[Snapshot, float]], combination: Combination) -> dict[str, Tensor]:
    """Combine averages from files tensor by tensor, so that memory holds little more than the result.

    Raises:
        ValueError: a file is damaged, or belongs to another network.
    """
    weights = {}
    try:
        with ExitStack() as stack:
            opened = {s.path: stack.enter_context(safe_open(s.path, "pt")) for s, _ in stored}
            checksums = {s.path: read_checksums(s.path) for s, _ in stored}
            last = opened[stored[-1][0].path]
            prefix = name_in_snapshot(stored[-1][1], "")
            names = sorted(name.removeprefix(prefix) for name in last.keys() if name.startswith(prefix))  # noqa: SIM118
            for name in track(names, "combining"):
                one_by_one = (
                    read_snapshot_tensor(opened[s.path], s.path, name_in_snapshot(own, name), checksums[s.path])
                    for s, own in stored
                )
                dtype = torch.float64 if last.get_slice(prefix + name).get_dtype() == "F64" else torch.float32
                weights[name] = combine_tensors(combination.coefficients, one_by_one).to(dtype)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"the snapshots in {stored[0][0].path.parent} cannot be combined: {error}") from error
    return weights


def read_snapshot_tensor(opened: safe_open, path: Path, name: str, checksums: Mapping[str, int]) -> Tensor:
    """Return a tensor of an opened snapshot.

    Raises:
        ValueError: its checksum is wrong, so the file is damaged.
    """
    tensor: Tensor = opened.get_tensor(name)
    check_tensor(path, name, tensor, checksums)
    return tensor
