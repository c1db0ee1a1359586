"""Shared by dashboards with a run of their own: its name on disk, whole rows of a step, and rows that it lacks."""

import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from ldm_train.training.loggers.dashboards import TIMING_PREFIX
from ldm_train.training.run_files import METRICS, TIMING
from ldm_train.util.files import atomic_write
from ldm_train.util.safe_json import numbers_of, parse_json, read_object

Value = TypeVar("Value")


class StepRows(Generic[Value]):
    """Collect the values of a step into one row, which is logged when another step comes, and only if it is new.

    Args:
        log: logs a row of values by name at a step.
    """

    def __init__(self, log: Callable[[Mapping[str, Value], int], None]) -> None:
        self.last_known = 0  # the last step that the dashboard has from an earlier start of the run
        self.step = 0  # of the row
        self._log = log
        self._row: dict[str, Value] = {}

    def add(self, values: Mapping[str, Value], step: int) -> None:
        """Add values to the row of a step; a step that the dashboard has already is passed over."""
        if step <= self.last_known:
            return
        if step != self.step:
            self.commit()
        self.step = step
        self._row |= values

    def commit(self) -> None:
        """Log the row."""
        row, self._row = self._row, {}
        if row:
            self._log(row, self.step)


def read_identity(path: Path, pattern: re.Pattern[str]) -> str | None:
    """Return the name that a dashboard's run has in a file of the run directory; None if there is no file.

    Raises:
        ValueError: the file holds none.
    """
    if not path.exists():
        return None
    identity = read_object(path).get("id")
    if not isinstance(identity, str) or not pattern.fullmatch(identity):
        raise ValueError(f"{path} has no run id; restore the file, or remove it to log to a new run of this dashboard")
    return identity


def write_identity(path: Path, identity: str) -> None:
    """Write the name of a dashboard's run to a file of the run directory."""
    atomic_write(path, json.dumps({"id": identity}) + "\n")


def read_missing_rows(run_dir: Path, *, after: int, until: int) -> list[tuple[int, dict[str, float]]]:
    """Return (step, values) for the steps after `after` up to `until`, from the run directory's files."""
    rows: dict[int, dict[str, float]] = {}
    for name, prefix in ((METRICS, ""), (TIMING, TIMING_PREFIX)):
        path = run_dir / name
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            values = numbers_of(parse_json(line))
            step = int(values.pop("step"))
            if after < step <= until:
                rows.setdefault(step, {}).update({prefix + key: value for key, value in values.items()})
    return sorted(rows.items())


def require_packages(option: str, *packages: str) -> None:
    """Raise if a package is not installed that a logger needs.

    Args:
        option: the logger's option, which is also the name of the extra that brings the packages.

    Raises:
        ValueError: it names the package and the extra.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"logger={option} needs the package {package}, which is not installed: pip install "
                f"'ldm-train[{option}]', or leave logger out; TensorBoard is always written"
            )
