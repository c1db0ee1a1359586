"""The wall-clock time that a run spends on anything but training, by name."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning import Callback

DATA = "data"  # waiting for it
TASK_DESCRIPTIONS = {
    "pictures": "drawing pictures",
    "validation": "validating",
    "metrics": "measuring pictures",
    "checkpoints": "saving",
}


class TimeSpent:
    """`with spent("pictures"): …` adds to `seconds` by name, and notifies listeners of what is being done.

    Args:
        clock: returns seconds since any fixed moment.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self._listeners: list[Callable[[str], None]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = self.clock()
        self._notify(TASK_DESCRIPTIONS.get(name, name))
        try:
            yield
        finally:
            self.add(name, self.clock() - began)
            self._notify("")

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a name."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def listen(self, listener: Callable[[str], None]) -> None:
        """Call the listener with a description of each task when it begins, and with "" when it ends."""
        self._listeners.append(listener)

    def besides_training(self) -> float:
        """Return the seconds spent on anything but training and waiting for its data."""
        return sum(seconds for name, seconds in self.seconds.items() if name != DATA)

    def _notify(self, task: str) -> None:
        for listener in self._listeners:
            listener(task)


class DataWaiting(Callback):
    """Add up the time between a batch's end and the next one's start. Must be the last of all callbacks."""

    def __init__(self, spent: TimeSpent) -> None:
        self.spent = spent
        self._ended: float | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if self._ended is not None:
            self.spent.add(DATA, self.spent.clock() - self._ended)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._ended = self.spent.clock()
