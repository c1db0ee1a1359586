"""Short forms of what may be long, for messages."""

from collections.abc import Collection


def list_names(names: Collection[str], most: int = 5) -> str:
    """Return the first names, and how many more there are."""
    first = ", ".join(list(names)[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"


def shorten(text: str, most: int = 40) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= most else f"{text[:most]}…"


def first_line(message: object) -> str:
    """Return the first line of a text, or of an error's message; the class of an error without message."""
    text = str(message).strip() or (type(message).__name__ if isinstance(message, BaseException) else "")
    return text.partition("\n")[0]
