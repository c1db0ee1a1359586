"""Run commands as processes, one at a time, and pass signals on to them."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType
from typing import BinaryIO, Self

from ldm_train.training.run_files import INTERRUPTED

ENDED_EARLY = (INTERRUPTED, 128 + signal.SIGINT, -signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Jobs:
    """Runs commands in groups of processes of their own; while it is entered, signals to this process go to them."""

    def __init__(self) -> None:
        self.stopped: int | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self._pass_on) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str], *, log: BinaryIO | None = None) -> int:
        """The exit code of a command, negative where a signal ended it.

        Args:
            log: a file for all that it prints; None: it prints where this process does.
        """
        to_log = subprocess.STDOUT if log is not None else None
        self.process = subprocess.Popen(command, process_group=0, stdin=subprocess.DEVNULL, stdout=log, stderr=to_log)
        if self.stopped is not None:  # it came while the process was being started
            self._send(self.stopped)
        code = self.process.wait()
        self.process = None
        return code

    def code(self, job: int) -> int:
        """The exit code of a sweep that ended early with this of its job: one that tells of an interruption, in any case."""
        if self.stopped is not None and job not in ENDED_EARLY:
            return 128 + self.stopped
        return 128 - job if job < 0 else job

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.stopped = number
        self._send(number)

    def _send(self, number: int) -> None:
        """To the job and the processes that it started, as a terminal does."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
