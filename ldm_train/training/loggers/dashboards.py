"""One small interface to all dashboards: what the code logs once appears in all of them, at the Trainer's step."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from ldm_train.data.pictures.images import count_broken
from ldm_train.util.messages import warn

TIMING_PREFIX = "time/"  # of names of values that depend on the machine's speed, and differ when a run is repeated
TableCell = float | int | str
PlainRecord = dict[str, float | int | str | list[int] | list[float] | list[float | None] | list[str]]
PlainConfig = Mapping[str, object]


class Dashboard(Logger):
    """A place to look at a run; subclasses override the methods for what they can show, and drop the rest.

    Its methods are called on the first rank only, unless `on_every_rank`, and through `attempt`, so that its failures do
    not end the run.
    """

    on_every_rank = False
    advice = ""  # what to do if it fails, for the warning

    def __init__(self) -> None:
        super().__init__()
        self._warned = False

    @property
    def name(self) -> str:
        """The dashboard's name, for messages."""
        return type(self).__name__

    @property
    def version(self) -> str:
        return ""

    def begin(self, settings: PlainConfig, step: int | None) -> None:
        """Start a new log if `step` is None, else continue from a checkpoint at `step` and drop what was logged after it.

        Args:
            settings: the run's config in plain values.
        """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics by name."""

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        """Log a uint8 picture (3, H, W)."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[TableCell]], step: int) -> None:
        """Log rows with one cell for each column."""

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Log the distribution of values of any shape."""

    def record(self, name: str, record: PlainRecord, step: int) -> None:
        """Log plain values and lists."""

    def checkpoint(self, path: Path, step: int) -> None:
        """Log a checkpoint that was written; its file may be replaced as soon as this returns."""

    def flush(self) -> None:
        """Write everything logged so far to disk; called before each checkpoint."""

    def close(self, *, failed: bool) -> None:
        """End the log; nothing is logged after this."""

    def attempt(self, work: Callable[[], None]) -> None:
        """Do the work, and warn once if it fails."""
        try:
            work()
        except Exception as error:  # any failure: a run is worth more than its dashboard
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if not self._warned:
                warn(f"{self.name} failed ({reason}); the run goes on, and metrics.jsonl has all values{self.advice}")
            self._warned = True

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log metrics under Lightning's name for `scalars`, as callbacks of own code do.

        Raises:
            ValueError: a value is no number, or there is no step.
        """
        if step is None:
            raise ValueError(f"log_metrics({metrics}) needs the step: log_metrics({metrics}, trainer.global_step)")
        values = {name: as_number(name, value) for name, value in metrics.items()}
        attempt = self.attempt if self.on_every_rank else rank_zero_only(self.attempt)
        attempt(lambda: self.scalars(values, step))

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Do nothing: `begin` has the config."""

    def finalize(self, status: str) -> None:
        attempt = self.attempt if self.on_every_rank else rank_zero_only(self.attempt)
        attempt(lambda: self.close(failed=status == "failed"))


def as_number(name: str, value: object) -> float:
    """Return a metric's value as a number.

    Raises:
        ValueError: it is none, and no tensor of one number.
    """
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"the metric {name!r} must be a number, or a tensor of one, and is {value!r:.100}") from None


def log_scalars(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Log metrics by name; call it on every rank."""
    _each(trainer, lambda dashboard: dashboard.scalars(values, trainer.global_step))


def log_picture(trainer: pl.Trainer, name: str, picture: Tensor) -> None:
    """Log a uint8 picture (3, H, W)."""
    _each(trainer, lambda dashboard: dashboard.picture(name, picture, trainer.global_step))


def log_table(trainer: pl.Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[TableCell]]) -> None:
    """Log rows with one cell for each column."""
    assert all(len(row) == len(columns) for row in rows)
    _each(trainer, lambda dashboard: dashboard.table(name, columns, rows, trainer.global_step))


def log_histogram(trainer: pl.Trainer, name: str, values: Tensor) -> None:
    """Log the distribution of values of any shape."""
    _each(trainer, lambda dashboard: dashboard.histogram(name, values, trainer.global_step))


def log_record(trainer: pl.Trainer, name: str, record: PlainRecord) -> None:
    """Log plain values and lists as a line of the run directory's `NAME.jsonl`, which is cut back when a run resumes."""
    _each(trainer, lambda dashboard: dashboard.record(name, record, trainer.global_step))


def log_checkpoint(trainer: pl.Trainer, path: Path, step: int) -> None:
    """Log the checkpoint of a step, which was just written."""
    _each(trainer, lambda dashboard: dashboard.checkpoint(path, step))


def flush_dashboards(trainer: pl.Trainer) -> None:
    """Have all dashboards write what was logged so far to disk."""
    _each(trainer, lambda dashboard: dashboard.flush())


def _each(trainer: pl.Trainer, work: Callable[[Dashboard], None]) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, Dashboard) and (trainer.is_global_zero or logger.on_every_rank):
            logger.attempt(lambda dashboard=logger: work(dashboard))  # type: ignore[misc]


def warn_of_nonfinite(trainer: pl.Trainer, name: str, pictures: Tensor | Sequence[Tensor]) -> None:
    """Warn of, and log, the number of pictures that stand for ones that were not finite, if there are any.

    Args:
        pictures: (3, H, W) uint8 each.
    """
    if count := sum(count_broken(picture[None]) for picture in pictures):
        warn(
            f"at step {trainer.global_step} {count} of {len(pictures)} {name} contain NaN or infinity and are "
            "shown as a checkerboard; the run goes on"
        )
        log_scalars(trainer, {f"nonfinite_pictures/{name.replace(' ', '_')}": float(count)})
