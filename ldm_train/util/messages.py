"""Notes and warnings for whoever runs a command: records of one logger, which one handler prints.

A program that uses the package gets them by `logging`, as those of any library.
"""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOGGER = logging.getLogger("ldm_train")
PRINTING = ("huggingface_hub", "datasets")  # libraries that print their records themselves, and pass them on as well


class Caution(str):
    """A warning, in a list of notes."""


_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


@contextmanager
def collecting_messages() -> Iterator[list[str]]:
    """Put all messages of this thread into the list that the block gets, instead of reporting them."""
    found: list[str] = []
    before = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(before)


def note(text: str) -> None:
    """Report what is good to know, or a `Caution`."""
    if (collected := _collected.get()) is not None:
        collected.append(text)
        return
    LOGGER.log(logging.WARNING if isinstance(text, Caution) else logging.INFO, "%s", text)


def warn(text: str) -> None:
    """Report what may be a mistake, or may go wrong."""
    note(Caution(text))


def note_all(lines: Iterable[str]) -> None:
    for line in lines:
        note(line)


class Printer(logging.Handler):
    """Print notes as they are and warnings as "warning: …", on standard output or on standard error."""

    def __init__(self, *, to_stderr: bool) -> None:
        super().__init__()
        self.to_stderr = to_stderr

    def emit(self, record: logging.LogRecord) -> None:
        kind = "warning: " if record.levelno >= logging.WARNING else ""
        print(f"{kind}{record.getMessage()}", file=sys.stderr if self.to_stderr else sys.stdout, flush=True)


def print_messages(*, to_stderr: bool = False) -> None:
    """Let the only handler of the logger print all messages from here on.

    Args:
        to_stderr: for a command with an output that other programs read.
    """
    LOGGER.handlers[:] = [Printer(to_stderr=to_stderr)]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    for library in PRINTING:  # or a handler of the root logger, which open_clip makes, prints each line once more
        logging.getLogger(library).propagate = False
