"""Run commands as processes, one at a time, and pass signals on to them."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Self

from ldm_train.training.run_files import INTERRUPTED

ENDED_EARLY = (INTERRUPTED, 128 + signal.SIGINT, -signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_SECONDS = 0.3


class Jobs:
    """Runs commands in groups of processes of their own; while it is entered, signals to this process go to them.

    Args:
        stop: a file by which another process asks them to stop, once it exists; None if only signals do.
    """

    def __init__(self, stop: Path | None = None) -> None:
        self.stop = stop
        self.stopped: int | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()  # Python allows handlers of signals in this one only
        self.before = {number: signal.signal(number, self._pass_on) for number in SIGNALS if main}
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
        try:
            code = self._wait(self.process)
        except BaseException:  # a cluster's launcher ends this process: let the job save first
            self._send(signal.SIGTERM)
            self.process.wait()
            raise
        self.process = None
        return code

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        while self.stop is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_SECONDS)
            if self.stopped is None and self.stop.exists():
                self._pass_on(signal.SIGTERM, None)
        return process.wait()

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
