"""One small interface to all dashboards: what is logged once in code is seen in every one, at the Trainer's step."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

CLOCK = "time/"  # begins the names of what is the clock's or the machine's, and another in another run
Cell = float | int | str
Record = dict[str, float | int | str | list[int] | list[float] | list[float | None] | list[str]]
Settings = Mapping[str, object]


class Dashboard(Logger):
    """A place where a run can be looked at; what a subclass has no place for is left out of it.

    It is begun, written to and closed on the first rank alone, unless it is `on_every_rank`; and by `attempt`, so that no
    fault of it ends the run.
    """

    on_every_rank = False
    advice = ""  # what to do where it fails

    def __init__(self) -> None:
        super().__init__()
        self._told = False

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def version(self) -> str:
        return ""

    def begin(self, settings: Settings, step: int | None) -> None:
        """Start anew where `step` is None, else go on from a checkpoint of it: what is there of later steps comes again.

        Args:
            settings: the run's config in plain values.
        """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Metrics by name."""

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        """A uint8 picture (3, H, W)."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        """Rows of as many cells as there are columns."""

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """The distribution of values of any shape."""

    def record(self, name: str, record: Record, step: int) -> None:
        """Plain values and lists."""

    def checkpoint(self, path: Path, step: int) -> None:
        """One was written; the file may be replaced as soon as this returns."""

    def flush(self) -> None:
        """Have on the disk what was logged so far; called before each checkpoint."""

    def close(self, *, failed: bool) -> None:
        """The run ends here, or is left; nothing more will be logged."""

    def attempt(self, work: Callable[[], None]) -> None:
        """Do it, or say once that it failed."""
        try:
            work()
        except Exception as error:  # whatever it is, a run is worth more than a look at it
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if not self._told:
                print(f"warning: {self.name} fails ({reason}); the run goes on, and metrics.jsonl has it all{self.advice}")
            self._told = True

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Lightning's name for `scalars`."""
        assert step is not None
        self.scalars(metrics, step)

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """`begin` was given them."""

    def finalize(self, status: str) -> None:
        attempt = self.attempt if self.on_every_rank else rank_zero_only(self.attempt)
        attempt(lambda: self.close(failed=status == "failed"))


def log_scalars(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Metrics by name, on every rank."""
    _each(trainer, lambda dashboard: dashboard.scalars(values, trainer.global_step))


def log_picture(trainer: pl.Trainer, name: str, picture: Tensor) -> None:
    """A uint8 picture (3, H, W)."""
    _each(trainer, lambda dashboard: dashboard.picture(name, picture, trainer.global_step))


def log_table(trainer: pl.Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Rows of as many cells as there are columns."""
    assert all(len(row) == len(columns) for row in rows)
    _each(trainer, lambda dashboard: dashboard.table(name, columns, rows, trainer.global_step))


def log_histogram(trainer: pl.Trainer, name: str, values: Tensor) -> None:
    """The distribution of values of any shape."""
    _each(trainer, lambda dashboard: dashboard.histogram(name, values, trainer.global_step))


def log_record(trainer: pl.Trainer, name: str, record: Record) -> None:
    """A line of plain values and lists in the run directory's `NAME.jsonl`, which is cut back where a run resumes."""
    _each(trainer, lambda dashboard: dashboard.record(name, record, trainer.global_step))


def log_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    """A checkpoint that was just written."""
    _each(trainer, lambda dashboard: dashboard.checkpoint(path, trainer.global_step))


def flush(trainer: pl.Trainer) -> None:
    """Have on the disk what was logged so far."""
    _each(trainer, lambda dashboard: dashboard.flush())


def _each(trainer: pl.Trainer, work: Callable[[Dashboard], None]) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, Dashboard) and (trainer.is_global_zero or logger.on_every_rank):
            logger.attempt(lambda dashboard=logger: work(dashboard))  # type: ignore[misc]
