"""Ending a run early without losing a step: a signal or a time limit is agreed on by all ranks and ends it at a step's end.

Lightning's own handlers broadcast from inside the signal, and wait for the device at every micro-batch to be ready for it;
they are switched off.
"""

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from types import FrameType

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch.distributed import Work

from ldm_train.training.callbacks.step_log import step_ended

# A terminal that is closed sends SIGHUP; SLURM warns with the last two.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SAME = 1.0  # seconds in which a second one is the first again, sent by a terminal and by what started the process
TIME_LIMIT = 255  # stands for the limit where a signal's number would


class Stop(Callback):
    """Sets `trainer.should_stop` at the end of a step, on every rank at the same one; `reason` says why.

    The ranks exchange their flags through the CPU while the next step is computed, so nothing waits for that.

    Args:
        max_time: how long this process may train, from `started` on; None for as long as it takes.
        started: when that began, on the clock of `time.monotonic`.
    """

    def __init__(self, *, max_time: timedelta | None = None, started: float) -> None:
        self.deadline = float("inf") if max_time is None else started + max_time.total_seconds()
        self.reason: str | None = None
        self._signal = 0
        self._received = 0.0
        self._process = os.getpid()
        self._handlers: dict[int, object] = {}
        self._terminals: list[int] = []
        self._flag = torch.zeros((), dtype=torch.int64)
        self._exchange: Work | None = None
        self._group: torch.distributed.ProcessGroup | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        silence_lightning(trainer)
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]  # a closed one is none any more
        if threading.current_thread() is threading.main_thread():
            ignored = {number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN}  # SIGHUP's, by nohup
            self._handlers = {number: signal.signal(number, self._receive) for number in SIGNALS if number not in ignored}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._give_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._give_back()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            group = torch.distributed.new_group(backend="gloo")
            assert isinstance(group, torch.distributed.ProcessGroup)
            self._group = group

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not step_ended(trainer, batch_idx):
            return
        wish = self._signal or (TIME_LIMIT if time.monotonic() >= self.deadline else 0)
        agreed = wish if self._group is None else self._exchanged(wish)
        if agreed:
            self.reason = "max_time" if agreed == TIME_LIMIT else signal.Signals(agreed).name
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._exchange is not None:
            self._exchange.wait()
            self._exchange = None

    def _exchanged(self, wish: int) -> int:
        """What any rank wished for at the end of the step before; this one's wish is sent."""
        agreed = 0
        if self._exchange is not None:
            self._exchange.wait()
            agreed = int(self._flag)
        self._flag.fill_(wish)
        self._exchange = torch.distributed.all_reduce(
            self._flag, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        return agreed

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader's worker, which ends with this process
        name = signal.Signals(number).name
        if number == signal.SIGHUP:
            leave_terminal(self._terminals)
        if self._signal and time.monotonic() < self._received + SAME:
            return
        if self._signal:
            say(f"{name} again: exiting at once; the last checkpoint stands")
            os._exit(128 + number)
        self._signal, self._received = number, time.monotonic()
        if os.environ.get("LOCAL_RANK", "0") == "0":
            say(f"{name}: saving at the end of a step and exiting; a second signal exits at once")

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._handlers = {}


def say(words: str) -> None:
    """To stderr past Python's own, a print to which may just have been interrupted; it does not matter who listens."""
    with suppress(OSError):
        os.write(2, f"\n{words}\n".encode())


def leave_terminal(streams: Sequence[int]) -> None:
    """Say nothing more to a terminal that was closed: every print to it would end the run."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)


def silence_lightning(trainer: pl.Trainer) -> None:
    """Keep Lightning's handlers away, and its broadcast at every micro-batch."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
