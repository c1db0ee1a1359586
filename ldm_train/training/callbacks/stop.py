"""End a run early without losing a step: all ranks agree on a signal or a time limit, and stop at the end of the same step.

Lightning's own handlers broadcast from inside the signal handler and wait for the device at every micro-batch to be ready
for it; they are switched off.
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

# A closed terminal sends SIGHUP; SLURM can be asked to warn with SIGUSR1 or SIGUSR2.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
REPEAT_SECONDS = 1.0  # a second signal within this time repeats the first: a terminal and a launcher both send it
TIME_LIMIT = 255  # stands for max_time in the place of a signal's number


class Stop(Callback):
    """Set `trainer.should_stop` at the end of a step, the same step on every rank; `reason` says why.

    The ranks exchange their flags on the CPU while the next step is computed, so nothing waits for that.

    Args:
        max_time: how long this process may train, counted from `started`; None for no limit.
        started: when the process started, as `time.monotonic()`.
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
        disable_lightning_signals(trainer)
        # Asked now, because a closed terminal is no tty any more.
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        if threading.current_thread() is threading.main_thread():
            # Such as SIGHUP under nohup.
            ignored = {number for number in STOP_SIGNALS if signal.getsignal(number) == signal.SIG_IGN}
            self._handlers = {
                number: signal.signal(number, self._receive) for number in STOP_SIGNALS if number not in ignored
            }

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

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
        wanted = self._signal or (TIME_LIMIT if time.monotonic() >= self.deadline else 0)
        agreed = wanted if self._group is None else self._exchanged(wanted)
        if agreed:
            self.reason = "max_time" if agreed == TIME_LIMIT else signal.Signals(agreed).name
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._exchange is not None:
            self._exchange.wait()
            self._exchange = None

    def _exchanged(self, wanted: int) -> int:
        """Return what any rank wanted at the end of the previous step, and send what this one wants now."""
        agreed = 0
        if self._exchange is not None:
            self._exchange.wait()
            agreed = int(self._flag)
        self._flag.fill_(wanted)
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
        if self._signal and time.monotonic() < self._received + REPEAT_SECONDS:
            return
        if self._signal:
            write_to_stderr(f"{name} again: exiting at once; the last checkpoint is kept")
            os._exit(128 + number)
        self._signal, self._received = number, time.monotonic()
        if os.environ.get("LOCAL_RANK", "0") == "0":
            write_to_stderr(f"{name}: saving at the end of a step and exiting; a second signal exits at once")

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._handlers = {}


def write_to_stderr(message: str) -> None:
    """Write to stderr past Python's buffer, because a print may just have been interrupted; ignore errors."""
    with suppress(OSError):
        os.write(2, f"\n{message}\n".encode())


def leave_terminal(streams: Sequence[int]) -> None:
    """Redirect streams to nowhere after their terminal was closed: every print to it would end the run."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)


def disable_lightning_signals(trainer: pl.Trainer) -> None:
    """Disable Lightning's signal handlers, and its broadcast at every micro-batch."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
