"""Dashboards with a run of their own, which get each step's values in one row: MLflow, Trackio and Weights & Biases."""

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ldm_train.training.loggers.dashboards import Dashboard, TableCell
from ldm_train.training.loggers.step_rows import StepRows, read_missing_rows


class MediaLibrary(Protocol):
    """What Trackio and Weights & Biases name alike."""

    Image: Callable[..., object]
    Table: Callable[..., object]
    Histogram: Callable[..., object]


class RowDashboard(Dashboard):
    """Log whole rows of a step, each once, and copy those that the dashboard lacks from the run directory's files.

    Args:
        save_dir: the run directory.
        name: of the dashboard's run; None for the run directory's name.
    """

    def __init__(self, save_dir: str, *, name: str | None) -> None:
        super().__init__()
        self.run_dir = Path(save_dir)
        self.run_name = name or self.run_dir.resolve().name
        self._rows = StepRows[object](self._log_row)

    @abstractmethod
    def _log_row(self, values: Mapping[str, object], step: int) -> None:
        """Log a row of values by name."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._rows.add(values, step)

    def flush(self) -> None:
        self._rows.commit()

    def _copy_missing(self, *, after: int, until: int) -> None:
        """Log the rows of the steps after `after` up to `until`."""
        for step, row in read_missing_rows(self.run_dir, after=after, until=until):
            self._log_row(row, step)

    def _begin_rows(self, *, known: int, until: int) -> None:
        """Log the rows up to `until` that the dashboard, which has rows up to `known`, lacks; pass over rows up to both."""
        self._copy_missing(after=known, until=until)
        self._rows.last_known = max(known, until)


class MediaDashboard(RowDashboard):
    """A dashboard with pictures, tables and histograms in its rows, which a thread of its library writes."""

    write_seconds = 0.0  # after which the library has written a row
    _pictures = False

    @abstractmethod
    def _media(self) -> MediaLibrary:
        """Return the library."""

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        self._rows.add({name: self._media().Image(picture.permute(1, 2, 0).cpu().numpy())}, step)
        self._pictures = True

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[TableCell]], step: int) -> None:
        self._rows.add({name: self._media().Table(columns=list(columns), data=[list(row) for row in rows])}, step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        self._rows.add({name: self._media().Histogram(values.float().cpu().flatten().numpy())}, step)

    def flush(self) -> None:
        """Log the step's row, and wait until pictures are written: a continued run does not draw them again.

        The libraries have no call to flush their files, so the only way is to wait.
        """
        super().flush()
        if self._pictures:
            time.sleep(self.write_seconds)
        self._pictures = False
