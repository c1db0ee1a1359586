"""Let signals end a command as they should: Ctrl-C also where Lightning trains, a cluster's warning also at the start."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # by which a cluster asks a process to make room
REPEAT_SECONDS = 1.0  # a second signal within this time repeats the first: a scheduler and a launcher both send it


class StopSignal(BaseException):
    """A signal asked a command to stop, before it had anything of its own to answer that with."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise StopSignal at a cluster's signal; a further one, later, ends the process at once.

    Raises:
        StopSignal: it names the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process, received = os.getpid(), 0.0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if os.getpid() != process or (received and time.monotonic() > received + REPEAT_SECONDS):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not received:
            received = time.monotonic()
            raise StopSignal(signal.Signals(number).name)

    replaced = {number: signal.getsignal(number) for number in STOP_SIGNALS if signal.getsignal(number) is signal.SIG_DFL}
    for number in replaced:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process with one line: for imports, in which a library may catch a KeyboardInterrupt."""
    first = threading.current_thread() is threading.main_thread()
    if not first or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, b"ldm-train: interrupted\n")
        os._exit(128 + number)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt again if Lightning turned it into an exit and has signals ignored since.

    Raises:
        KeyboardInterrupt: it was Ctrl-C.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


@contextmanager
def ended_by_signals(*numbers: int) -> Iterator[None]:
    """Let signals end the block as Ctrl-C does, so that what it opened is closed; the exit code names the signal.

    Raises:
        SystemExit: one of them arrived.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    replaced = {number: signal.signal(number, end) for number in numbers if signal.getsignal(number) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
