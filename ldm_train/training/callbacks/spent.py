"""The wall-clock that a run spends on anything but training, by name."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning import Callback

DATA = "data"  # the wait for it
DOING = {
    "pictures": "drawing pictures",
    "validation": "validating",
    "metrics": "measuring pictures",
    "checkpoints": "saving",
}


class Spent:
    """`with spent("pictures"): …` adds up `seconds` by name, and tells those who listen what is being done.

    Args:
        clock: seconds, from any moment on.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self._listeners: list[Callable[[str], None]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = self.clock()
        self._tell(DOING.get(name, name))
        try:
            yield
        finally:
            self.add(name, self.clock() - began)
            self._tell("")

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def listen(self, listener: Callable[[str], None]) -> None:
        """Have it called with what is begun, in words, and with nothing when that is done."""
        self._listeners.append(listener)

    def besides_training(self) -> float:
        """Seconds on all but training and the wait for its data."""
        return sum(seconds for name, seconds in self.seconds.items() if name != DATA)

    def _tell(self, doing: str) -> None:
        for listener in self._listeners:
            listener(doing)


class Waiting(Callback):
    """Adds up the time between a batch's end and the next one's start; to be the last of all callbacks."""

    def __init__(self, spent: Spent) -> None:
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
