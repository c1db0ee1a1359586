"""Let Ctrl-C end a command as Ctrl-C, also where Lightning trains: it answers with an exit, of code 1 and without a word."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
