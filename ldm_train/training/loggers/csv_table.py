"""`metrics.csv`, the lines of `metrics.jsonl` as one table for a spreadsheet; and other tables as files in `tables/`."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ldm_train.training.loggers.dashboards import Dashboard, PlainConfig, TableCell
from ldm_train.training.run_files import METRICS
from ldm_train.util.files import atomic_write, flush_file
from ldm_train.util.safe_json import numbers_of, parse_json


class CSVTable(Dashboard):
    """Write `metrics.csv` from `metrics.jsonl` at each checkpoint and at the end, so that both always agree.

    A metric's column is added with the first line that has the metric; lines without it have an empty cell there.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.path = run_dir / "metrics.csv"
        self._columns: list[str] = []
        self._read = 0  # bytes of metrics.jsonl

    def begin(self, settings: PlainConfig, step: int | None) -> None:
        self.path.unlink(missing_ok=True)
        self.flush()

    def flush(self) -> None:
        lines = list(self._lines(self._read))
        if new := list(dict.fromkeys(name for line, _ in lines for name in line if name not in self._columns)):
            lines = list(self._lines(0))
            self._columns += new
            _replace(self.path, self._columns, [line for line, _ in lines])
        else:
            with self.path.open("a", encoding="utf-8", newline="") if lines else io.StringIO() as file:
                csv.DictWriter(file, self._columns).writerows(line for line, _ in lines)
        if lines:
            self._read = lines[-1][1]
            flush_file(self.path)

    def close(self, *, failed: bool) -> None:
        self.flush()

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[TableCell]], step: int) -> None:
        _replace(self.run_dir / "tables" / f"{name}.csv", columns, [dict(zip(columns, row, strict=True)) for row in rows])

    def _lines(self, start: int) -> Iterator[tuple[dict[str, float], int]]:
        """Yield the complete lines from a byte on, each with the byte at which it ends."""
        path = self.run_dir / METRICS
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                start += len(line)
                if line.endswith(b"\n"):
                    yield numbers_of(parse_json(line)), start


def _replace(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, TableCell]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue())
