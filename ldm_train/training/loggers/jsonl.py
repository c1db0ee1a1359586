"""`metrics.jsonl`, one line for each logged step, with values that a repeated run reproduces; and `timing.jsonl`."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from ldm_train.training.loggers.dashboards import TIMING_PREFIX, Dashboard, PlainConfig, PlainRecord
from ldm_train.training.run_files import LINES, METRICS, TIMING
from ldm_train.util.files import atomic_write, flush_file, flush_folder, write_error
from ldm_train.util.messages import warn
from ldm_train.util.safe_json import parse_json


class JsonLines(Dashboard):
    """Write everything but pictures to JSON-lines files in the run directory, whatever happens to the other dashboards.

    Values of one step share a line, which is written when the next step is logged, at a checkpoint, or at the end. `latest`
    has each metric's last step and value, on every rank. Lines that a full disk refuses wait for room; no checkpoint is
    written while they wait, because a run resumed from it would lack them.
    """

    on_every_rank = True

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.latest: dict[str, tuple[int, float]] = {}
        self._step = 0
        self._lines: dict[str, dict[str, float]] = {}  # of the step self._step, by file
        self._waiting: dict[str, str] = {}  # lines that a full disk refused, by file

    def attempt(self, work: Callable[[], None]) -> None:
        """Do the work, and let its failure end the run: without these files, the run's record would be incomplete."""
        work()

    @rank_zero_only
    def begin(self, settings: PlainConfig, step: int | None) -> None:
        """If a run continues, drop the lines of later steps, and a line that was cut off."""
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
            file = TIMING if name.startswith(TIMING_PREFIX) else METRICS
            self._lines.setdefault(file, {"step": step})[name.removeprefix(TIMING_PREFIX)] = value

    @rank_zero_only
    def record(self, name: str, record: PlainRecord, step: int) -> None:
        """Append a line to `NAME.jsonl`."""
        assert f"{name}.jsonl" in LINES, "add the file to LINES in run_files.py"
        self._append(f"{name}.jsonl", {"step": step, **record})

    @rank_zero_only
    def save(self) -> None:
        lines, self._lines = self._lines, {}
        for file, line in lines.items():
            self._append(file, line)

    @rank_zero_only
    def flush(self) -> None:
        """Write all lines to disk.

        Raises:
            OSError: a line cannot be written.
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
        flush_folder(self.run_dir)  # a new file's name is on disk only after this

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
            if not self._warned:
                path = self.run_dir / name
                warn(f"{path} cannot be written ({error}); its lines wait for room until the next checkpoint")
            self._warned = True

    def _write_out(self, name: str) -> None:
        """Append the waiting text, all or nothing."""
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
