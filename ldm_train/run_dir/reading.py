"""A run directory as plain data, read without a lock and without torch, whether the run is over or still going on.

What is missing is empty; what cannot be read is content in `notes`, and never ends the reading: a line may be half written,
a picture broken, the run older than what would read it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm_train.settings.safe_yaml import read_settings_file
from ldm_train.training.run_files import BINS, DATA, METRICS, SETS, TIMING
from ldm_train.util.inputs import open_input
from ldm_train.util.ownership import LOCK, RUN
from ldm_train.util.safe_json import parse_json, read_json, read_text

CONFIG = "config.yaml"
RECORD = RUN.mark
SAVED_STEP = "saved_step"  # the key in the record; None before the first checkpoint

LARGEST_LINES = 2**30  # bytes of a file of lines
LARGEST_STEP = 2**53
LARGEST_VALUE = 1e300  # the difference of two larger ones is not finite, and no curve can have them

Plain = dict[str, object]


@dataclass(frozen=True)
class Series:
    """One value over the steps at which it was logged, ascending; `values` may hold what is not finite."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def finite(self) -> "Series":
        kept = np.isfinite(self.values)
        return Series(self.steps[kept], self.values[kept])

    @property
    def last(self) -> float:
        return float(self.values[-1])


@dataclass
class RunRead:
    """What a run directory holds.

    Args:
        settings: of its config, by dotted names.
        starts: of `run.json`, as they are there.
        series: what was logged, by name; what is of the clock begins with `time/`.
        bins: the lines of `validation.jsonl`.
        sets: those of `set_metrics.jsonl`, which say of what the metrics of sets of pictures are.
        evaluations: the results of `ldm-train evaluate` found in it, by file name.
        nonfinite: steps that were left out, and how many of their examples were not finite themselves.
        locked: whether a process has it now; None where that cannot be known.
        saved: the step of the last checkpoint; None if none is recorded.
        data: of `data.json`, what it is trained on; empty if that is not there.
        notes: what could not be read.
    """

    path: Path
    settings: Plain
    starts: list[Plain] = field(default_factory=list)
    series: dict[str, Series] = field(default_factory=dict)
    bins: list[Plain] = field(default_factory=list)
    sets: list[Plain] = field(default_factory=list)
    evaluations: dict[str, Plain] = field(default_factory=dict)
    nonfinite: dict[int, int] = field(default_factory=dict)
    locked: bool | None = False
    saved: int | None = None
    data: Plain = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        """Return the furthest step: the last one that was logged or saved."""
        return max((self.saved or 0, *(int(series.steps[-1]) for series in self.series.values())))

    @property
    def max_steps(self) -> int:
        found = self.settings.get("max_steps")
        return found if isinstance(found, int) else 0

    @property
    def of_autoencoder(self) -> bool:
        return any(name.startswith("architecture.") for name in self.settings)

    def samples(self, prefix: str = "") -> dict[int, Path]:
        """Return the pictures in `samples/` whose names are this prefix and a step, by step."""
        return dict(sorted(_numbered(self.path / "samples", f"{prefix}step-", ".png")))


def read_run(path: Path) -> RunRead:
    """Read everything that a run directory records, except its pictures and weights.

    Raises:
        ValueError: it is no run directory, or its config cannot be read.
    """
    run = RunRead(path, _config(path))
    run.starts, run.saved = _read_record(path, run.notes)
    run.series = _series(path / METRICS, "", run.notes) | _series(path / TIMING, "time/", run.notes)
    run.data = read_data(path)
    run.bins = [line for line in _lines(path / BINS, run.notes) if _is_binned(line)]
    run.sets = _lines(path / SETS, run.notes)
    run.evaluations = _evaluations(path)
    run.nonfinite = _nonfinite(path / "nonfinite")
    run.locked = is_locked(path)
    return run


def read_data(path: Path) -> Plain:
    """Return what a run directory says of the data that the run is trained on; nothing if that cannot be read."""
    try:
        found = read_json(path / DATA)
    except (OSError, ValueError):
        return {}
    return dict(found) if isinstance(found, dict) else {}


def read_runs(paths: Iterable[Path]) -> tuple[list[RunRead], list[str]]:
    """Return the runs that can be read, and what is wrong with the others, with their paths."""
    runs, broken = [], []
    for path in paths:
        try:
            runs.append(read_run(path))
        except (ValueError, OSError) as error:
            reason = str(error)
            broken.append(reason if str(path) in reason else f"{path}: {reason}")
    return runs, broken


def is_run_directory(path: Path) -> bool:
    """Return whether a folder looks like a run directory: it has a config, and a record or metrics."""
    return (path / CONFIG).is_file() and ((path / RECORD).is_file() or (path / METRICS).is_file())


def flatten_settings(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted names and the values of a plain config."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flatten_settings(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def is_locked(path: Path) -> bool | None:
    """Return whether a process holds this run directory, asked with a shared lock; None if it cannot be known."""
    try:
        import fcntl  # not on every system

        with open_input(path / LOCK, limit=None) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except (OSError, ImportError):
        return None
    return False


def require_config(path: Path) -> None:
    """Raise ValueError if a folder has no config, so that it is no run directory, not even a damaged one."""
    if not (path / CONFIG).is_file():
        raise ValueError(
            f"{path} is not a run directory: {path / CONFIG} is not there; `ldm-train runs {path}` lists the runs below it"
        )


def _config(path: Path) -> Plain:
    require_config(path)
    try:
        found = OmegaConf.to_container(read_settings_file(path / CONFIG))
    except OmegaConfBaseException as error:
        raise ValueError(f"{path / CONFIG} cannot be read ({error})") from error
    if not isinstance(found, dict) or "max_steps" not in found:
        raise ValueError(f"{path / CONFIG} is no config of a run: it has no max_steps")
    return dict(flatten_settings(found))


def _read_record(path: Path, notes: list[str]) -> tuple[list[Plain], int | None]:
    """Return the starts of a run, and the step of its last checkpoint."""
    try:
        record = read_json(path / RECORD)
        starts = record["starts"]  # type: ignore[index,call-overload]
        if not isinstance(starts, list):
            raise ValueError("its starts are no list")
        saved = record.get(SAVED_STEP)  # type: ignore[union-attr]
        known = isinstance(saved, int) and 0 <= saved < LARGEST_STEP
        return [dict(start) for start in starts if isinstance(start, dict)], saved if known else None  # type: ignore[return-value]
    except FileNotFoundError:
        notes.append(f"{RECORD} is not there: how the run was started is not known")
    except (OSError, ValueError, LookupError, TypeError) as error:
        notes.append(f"{RECORD} cannot be read ({error})")
    return [], None


def _lines(path: Path, notes: list[str]) -> list[Plain]:
    """Return the complete lines of a JSON-lines file that have a step; note how many do not."""
    try:
        texts = read_text(path, limit=LARGEST_LINES, errors="replace").split("\n")  # damage costs its own line only
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read ({error})")
        return []
    found: list[Plain] = []
    broken = 0
    for text in texts[:-1]:  # what follows the last line end is being written
        try:
            line = parse_json(text)
        except ValueError:
            line = None
        step = line.get("step") if isinstance(line, dict) else None
        if isinstance(step, int | float) and step == step // 1 and 0 <= step < LARGEST_STEP:
            found.append({**line, "step": int(step)})  # type: ignore[dict-item]
        else:
            broken += 1
    if broken:
        notes.append(f"{path.name}: {broken:,} of {len(texts) - 1:,} lines cannot be read and are left out")
    return found


def _series(path: Path, prefix: str, notes: list[str]) -> dict[str, Series]:
    """Return every logged number; if a step was logged twice, the later one."""
    columns: dict[str, dict[int, float]] = {}
    for line in _lines(path, notes):
        step = line.pop("step")
        assert isinstance(step, int)
        for name, value in line.items():
            if isinstance(value, int | float):  # parsing limits how large
                columns.setdefault(f"{prefix}{name}", {})[step] = _drawable(float(value))
    found = {}
    for name, column in columns.items():
        steps = np.array(sorted(column), dtype=np.int64)
        found[name] = Series(steps, np.array([column[step] for step in steps.tolist()], dtype=np.float64))
    return found


def _drawable(value: float) -> float:
    """Return a number; 0 or infinity instead of one that no curve can have."""
    if abs(value) < 1 / LARGEST_VALUE:
        return 0.0
    return math.copysign(math.inf, value) if abs(value) >= LARGEST_VALUE else value


def _is_binned(line: Plain) -> bool:
    edges, loss = line.get("edges"), line.get("loss")
    if not isinstance(edges, list) or not isinstance(loss, list) or len(edges) != len(loss) + 1 or not loss:
        return False
    numbers = all(isinstance(value, int | float) for value in edges + loss)
    if not numbers or any(LARGEST_VALUE <= abs(value) < math.inf for value in edges + loss):
        return False
    return all(low < high for low, high in pairwise(edges))


def _evaluations(path: Path) -> dict[str, Plain]:
    found: dict[str, Plain] = {}
    for file in [*sorted(path.glob("*.json")), *sorted(path.glob("evaluations/*.json"))]:
        try:
            content = read_json(file)
        except (OSError, ValueError):
            continue  # a stranger's file, or one that is being written
        if isinstance(content, dict) and content.get("kind") == "evaluation":
            found[file.relative_to(path).as_posix()] = dict(content)
    return found


def _nonfinite(folder: Path) -> dict[int, int]:
    found: dict[int, int] = {}
    for step, file in _numbered(folder, "step-", ".json"):
        try:
            examples = read_json(file)["examples"]  # type: ignore[index,call-overload]
            bad = sum(example.get("finite") is False for example in examples)  # type: ignore[union-attr]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            bad = 0
        found[step] = found.get(step, 0) + bad
    return dict(sorted(found.items()))


def _numbered(folder: Path, prefix: str, suffix: str) -> Iterator[tuple[int, Path]]:
    """Yield the files named by this prefix, a step, and perhaps further words."""
    for file in sorted(folder.glob(f"{prefix}*{suffix}")):
        digits = file.name.removeprefix(prefix).removesuffix(suffix).partition("-")[0]
        if digits.isdecimal():
            yield int(digits), file
