"""`metrics.jsonl`: a line a logged step, of values that the same run gives again; the clock's go to `timing.jsonl`."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from ldm_train.training.loggers.dashboards import CLOCK, Dashboard, Record, Settings
from ldm_train.training.run_files import LINES, METRICS, TIMING
from ldm_train.util.files import atomic_write, flush_file, flush_folder, write_error
from ldm_train.util.safe_json import parse_json


class JsonLinesLogger(Dashboard):
    """JSON-lines files in the run directory, which have everything that is no picture, whatever becomes of other dashboards.

    What is logged at one step shares a line, written when the next step comes, at a checkpoint, or at the end. `latest` has
    each metric's last step and value, on every rank. Lines that a full disk refuses wait for room; a checkpoint, which
    would lose them, is not written then.
    """

    on_every_rank = True

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.latest: dict[str, tuple[int, float]] = {}
        self._step = 0
        self._lines: dict[str, dict[str, float]] = {}  # of that step, by file
        self._waiting: dict[str, str] = {}  # text by file

    def attempt(self, work: Callable[[], None]) -> None:
        """What fails here fails the run, for it would not be told by what it left."""
        work()

    @rank_zero_only
    def begin(self, settings: Settings, step: int | None) -> None:
        """Of a run that is continued, drop the lines of later steps, and one that was cut off in the middle."""
        for path in () if step is None else self._files():
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
            atomic_write(path, "".join(f"{line}\n" for line in lines if _step(line) <= (step or 0)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.latest |= {name: (step, value) for name, value in values.items()}
        self._write(values, step)

    @rank_zero_only
    def _write(self, values: Mapping[str, float], step: int) -> None:
        if step != self._step:
            self.save()
        self._step = step
        for name, value in values.items():
            file = TIMING if name.startswith(CLOCK) else METRICS
            self._lines.setdefault(file, {"step": step})[name.removeprefix(CLOCK)] = value

    @rank_zero_only
    def record(self, name: str, record: Record, step: int) -> None:
        """A line of its own in `NAME.jsonl`."""
        assert f"{name}.jsonl" in LINES, "a run directory's files are listed in run_files.py"
        self._append(f"{name}.jsonl", {"step": step, **record})

    @rank_zero_only
    def save(self) -> None:
        lines, self._lines = self._lines, {}
        for file, line in lines.items():
            self._append(file, line)

    @rank_zero_only
    def flush(self) -> None:
        """Have all lines on the disk.

        Raises:
            OSError: it has no room for them.
        """
        self.save()
        try:
            for name in list(self._waiting):
                self._write_out(name)
        except OSError as error:
            raise write_error(self.run_dir / name, error) from error
        for path in self._files():
            try:
                flush_file(path)
            except OSError as error:
                raise write_error(path, error) from error
        flush_folder(self.run_dir)  # which has the names of new files

    @rank_zero_only
    def close(self, *, failed: bool) -> None:
        self.save()

    def _files(self) -> list[Path]:
        return [path for name in LINES if (path := self.run_dir / name).is_file()]

    def _append(self, name: str, line: Mapping[str, object]) -> None:
        self._waiting[name] = self._waiting.get(name, "") + json.dumps(line) + "\n"
        try:
            self._write_out(name)
        except OSError as error:
            if not self._told:
                print(
                    f"warning: {self.run_dir / name} cannot be written ({error}); its lines wait until the next checkpoint"
                )
            self._told = True

    def _write_out(self, name: str) -> None:
        """Append what waits, all of it or nothing."""
        path = self.run_dir / name
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(self._waiting[name])
        except OSError:
            if path.exists():
                os.truncate(path, size)
            raise
        del self._waiting[name]


def _step(line: str) -> float:
    try:
        return float(parse_json(line)["step"])  # type: ignore
    except (ValueError, LookupError, TypeError):
        return math.inf
