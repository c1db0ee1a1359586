"""The history of typed lines, which the arrow keys bring back, also those of earlier commands."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MOST_LINES = 1000  # lines
UNAVAILABLE = (OSError, RuntimeError)  # no folder that may be written to, or no home


@contextmanager
def keeping_history() -> Iterator[None]:
    """Let lines be edited, and remembered from one command to the next if that is possible."""
    try:
        import readline
    except ImportError:  # not on every system
        yield
        return
    with suppress(*UNAVAILABLE):
        readline.read_history_file(locate_history())
    readline.set_history_length(MOST_LINES)
    try:
        yield
    finally:
        with suppress(*UNAVAILABLE):
            file = locate_history()
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            readline.write_history_file(file)


def locate_history() -> Path:
    """Return the file of the history in the user's folder for state."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "ldm-train" / "prompt_history"
