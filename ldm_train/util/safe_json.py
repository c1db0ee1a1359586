"""Read JSON that somebody else may have written: whatever is wrong with it is a ValueError that names the file."""

import json
import math
from collections.abc import Callable
from pathlib import Path

from ldm_train.util.inputs import open_input
from ldm_train.util.text import shorten

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

LARGEST_FILE = 2**26  # bytes; the readers of what grows with the number of pictures pass their own limit
LARGEST_INT = 2**64


def read_text(path: Path, *, limit: int | None = LARGEST_FILE, errors: str = "strict") -> str:
    """Return the text of a regular file.

    Args:
        limit: bytes; None for no limit.
        errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, larger than the limit, or not UTF-8.
    """
    try:
        with open_input(path, limit=limit) as file:
            return file.read().decode("utf-8", errors).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error})") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path} cannot be read: {error}") from error  # no regular file, or too large


def read_json(path: Path, *, limit: int | None = LARGEST_FILE) -> Json:
    """Return what a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, too large, nested too deeply, or holds a number that is too large.
    """
    text = read_text(path, limit=limit)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error})") from error


def read_object(path: Path, *, limit: int | None = LARGEST_FILE) -> dict[str, Json]:
    """Return the JSON object that a file holds; raises as `read_json`, and for any other value."""
    value = read_json(path, limit=limit)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def parse_json(text: str | bytes) -> Json:
    """Return the value of a JSON text.

    Raises:
        ValueError: as `read_json`.
    """
    return _parse(text, _int, _float)


def parse_values(text: str | bytes) -> Json:
    """Return the value of a JSON text of which numbers are never computed with: they may be large, and infinite.

    Raises:
        ValueError: it is no JSON, nested too deeply, or has a number of more digits than Python reads.
    """
    return _parse(text, int, float)


def numbers_of(value: Json) -> dict[str, float]:
    """Return the numbers of an object by name, as a line of metrics has them; nothing of any other value."""
    return {k: v for k, v in value.items() if isinstance(v, int | float)} if isinstance(value, dict) else {}


def _parse(text: str | bytes, parse_int: Callable[[str], Json], parse_float: Callable[[str], Json]) -> Json:
    try:
        value: Json = json.loads(text, parse_int=parse_int, parse_float=parse_float)
        return value
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _int(text: str) -> int:
    if len(text) > 21 or abs(int(text)) > LARGEST_INT:
        raise ValueError(f"the number {shorten(text)} is too large")
    return int(text)


def _float(text: str) -> float:
    """Return a number as it stands there; NaN and Infinity are written as words and pass, 1e999 does not."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {shorten(text)} is too large")
    return value
