"""A run's trained weights by our own names, of its checkpoint or an average of any length made afterwards."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm_train.assembly.parts import build_parts
from ldm_train.assembly.stored_weights import complete_weights, read_weights
from ldm_train.assembly.trained_part import is_partial
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.ema.post_hoc import Combination, combine_tensors, fit_coefficients
from ldm_train.training.ema.profiles import gamma_of_length
from ldm_train.training.ema.snapshots import SNAPSHOT_FOLDER, Snapshot, list_lengths, name_in_snapshot, read_snapshots
from ldm_train.weights.tensor_files import check_tensor, read_checksums

POOR = 0.05  # residual; on a random walk the weights then err by about 1 % of what averaging changes of them


@dataclass(frozen=True)
class Export:
    """Weights by our own names, and what the file tells of them."""

    weights: dict[str, Tensor]
    step: int
    told: dict[str, object]


def whole(trained: TrainSettings, run_dir: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a run that trained a part of them, with the rest, and adapters merged into them.

    Raises:
        ValueError: it trained all of them.
    """
    if not is_partial(trained):
        raise ValueError(f"merge=true has nothing to merge: {run_dir} trained all weights, as adapter=null trained=null do")
    return dict(complete_weights(weights, run_dir, build_parts(trained)))


def of_checkpoint(run_dir: Path, weights: str) -> Export:
    """The averaged or the raw weights of the last checkpoint."""
    state, step, path = read_weights(run_dir, weights)
    broken = sorted(name for name, tensor in state.items() if not tensor.isfinite().all())
    if broken:
        raise ValueError(
            f"{path} has {weights} weights with NaN or infinity, such as {broken[0]}: the training had diverged"
        )
    return Export(dict(state), step, {"weights": weights})


def of_snapshots(run_dir: Path, *, length: float, step: int | None) -> Export:
    """The average of this length that ends at this step, from all snapshots up to the first at or after it."""
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
        print(
            f"warning: {len(snapshots)} snapshots of lengths {', '.join(map(str, list_lengths(snapshots)))} come no nearer "
            f"to ema_length={length} at step {step} than {combination.residual:.0%} of its profile; nearer are a length "
            "between theirs, a snapshot's own step, or a run with a smaller ema.snapshot_every"
        )
    weights = combined(stored, combination)
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise ValueError(
            f"the averages in {run_dir / SNAPSHOT_FOLDER} are not finite up to step {step}: the training had diverged"
        )
    used = [
        {"step": snapshot.step, "length": own, "coefficient": coefficient}
        for (snapshot, own), coefficient in zip(stored, combination.coefficients.tolist(), strict=True)
    ]
    told = {"weights": "post-hoc", "ema_length": length, "residual": combination.residual, "combined": used}
    return Export(weights, step, told)


def find_snapshots(run_dir: Path, step: int | None) -> list[Snapshot]:
    """Those of a run up to the first at or after this step; None: all.

    Raises:
        ValueError: there are none, or the step is outside of theirs.
    """
    snapshots = read_snapshots(run_dir)
    if not snapshots:
        raise ValueError(
            f"{run_dir / SNAPSHOT_FOLDER} holds no snapshots, from which ema_length=… is made: train with ema=power (and "
            "ema.snapshot_every below the run's steps); without ema_length the checkpoint's own average is exported"
        )
    first, last = snapshots[0].start_step + 1, snapshots[-1].step
    if step is not None and (not isinstance(step, int) or not first <= step <= last):
        raise ValueError(
            f"step={step} must be a step of the averages in {run_dir / SNAPSHOT_FOLDER}: from {first} to {last}"
        )
    end = next(n for n, snapshot in enumerate(snapshots) if step is None or snapshot.step >= step)
    return snapshots if step is None else snapshots[: end + 1]


def combined(stored: Sequence[tuple[Snapshot, float]], combination: Combination) -> dict[str, Tensor]:
    """The combination of averages that lie in files, tensor by tensor: in memory is the result and little else.

    Raises:
        ValueError: a file is damaged, or another network's.
    """
    weights = {}
    try:
        with ExitStack() as stack:
            opened = {s.path: stack.enter_context(safe_open(s.path, "pt")) for s, _ in stored}
            known = {s.path: read_checksums(s.path) for s, _ in stored}
            last = opened[stored[-1][0].path]
            prefix = name_in_snapshot(stored[-1][1], "")
            names = sorted(name.removeprefix(prefix) for name in last.keys() if name.startswith(prefix))  # noqa: SIM118
            for name in track(names, "combining"):
                one_by_one = (
                    read_one(opened[s.path], s.path, name_in_snapshot(own, name), known[s.path]) for s, own in stored
                )
                dtype = torch.float64 if last.get_slice(prefix + name).get_dtype() == "F64" else torch.float32
                weights[name] = combine_tensors(combination.coefficients, one_by_one).to(dtype)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"the snapshots in {stored[0][0].path.parent} cannot be combined: {error}") from error
    return weights


def read_one(opened: safe_open, path: Path, name: str, known: Mapping[str, int]) -> Tensor:
    """Return a tensor of an opened snapshot.

    Raises:
        ValueError: it is not as it was written.
    """
    tensor: Tensor = opened.get_tensor(name)
    check_tensor(path, name, tensor, known)
    return tensor
