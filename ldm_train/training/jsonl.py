"""`metrics.jsonl`: a line a logged step, of values that the same run gives again; the clock's go to `timing.jsonl`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

CLOCK = "time/"
Record = dict[str, float | int | str | list[int] | list[float] | list[float | None] | list[str]]


class JsonLinesLogger(Logger):
    """Lightning's logger interface over JSON-lines files in the run directory.

    What is logged at one step shares a line, written when the next step comes, at a checkpoint, or at the end. `latest` has
    each metric's last step and value, on every rank.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.latest: dict[str, tuple[int, float]] = {}
        self._line: dict[str, float] = {}

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """The run directory's config.yaml holds them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.latest |= {name: (step, value) for name, value in metrics.items()}
        self._write(metrics, step)

    @rank_zero_only
    def _write(self, metrics: dict[str, float], step: int) -> None:
        clock = {name.removeprefix(CLOCK): value for name, value in metrics.items() if name.startswith(CLOCK)}
        if clock:
            self._append("timing.jsonl", {"step": step, **clock})
        kept = {name: value for name, value in metrics.items() if not name.startswith(CLOCK)}
        if kept:
            if self._line.get("step") != step:
                self.save()
                self._line = {"step": step}
            self._line.update(kept)

    @rank_zero_only
    def log_record(self, name: str, record: Record) -> None:
        """A line of its own in `NAME.jsonl`."""
        self._append(f"{name}.jsonl", record)

    @rank_zero_only
    def save(self) -> None:
        if self._line:
            self._append("metrics.jsonl", self._line)
            self._line = {}

    @rank_zero_only
    def flush(self) -> None:
        """Have all lines on the disk."""
        self.save()
        for path in self._files():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    @rank_zero_only
    def cut_back(self, step: int) -> None:
        """Drop the lines of steps after `step`, and one that was cut off in the middle: a resumed run writes them again."""
        for path in self._files():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
            writing = path.with_suffix(".writing")
            writing.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            writing.replace(path)

    def _files(self) -> list[Path]:
        return sorted(self.run_dir.glob("*.jsonl"))

    def _append(self, name: str, line: Mapping[str, object]) -> None:
        with (self.run_dir / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
