"""Short forms of what may be long, for messages."""

import difflib
import shlex
from collections.abc import Collection, Iterable


def list_names(names: Collection[str], most: int = 5) -> str:
    """Return the first names, and how many more there are."""
    first = ", ".join(list(names)[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"


def shorten(text: str, most: int = 40) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= most else f"{text[:most]}…"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the nearest known word as a suggestion to end a message with; nothing if none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def as_word(setting: str, value: object) -> str:
    """Return a setting with a value as a word for a shell, in quotes if it needs them."""
    return shlex.quote(f"{setting}={value}")


def first_line(message: object) -> str:
    """Return the first line of a text, or of an error's message; the class of an error without message."""
    text = str(message).strip() or (type(message).__name__ if isinstance(message, BaseException) else "")
    return text.partition("\n")[0]


def format_value(value: object) -> str:
    """Return a setting's value as it is typed."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def format_duration(seconds: float) -> str:
    """Return seconds in a readable unit, such as "3.2 hours"."""
    for unit, length in (("days", 2 * 86400), ("hours", 2 * 3600), ("minutes", 120)):
        if seconds >= length:
            return f"{seconds / (length / 2):.3g} {unit}"
    return f"{seconds:.2g} seconds" if seconds < 10 else f"{seconds:.0f} seconds"
