"""Make texts of users' files fit for a page: spell out characters that cannot be shown, and cut long texts."""

import re

from markupsafe import Markup, escape

MAX_LINE_LENGTH, MAX_PROSE_LENGTH = 300, 5000  # characters

# Controls, surrogates and non-characters, which HTML forbids; and marks that reorder or hide the text after them.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)


def fit_line(value: object, limit: int = MAX_LINE_LENGTH) -> str:
    """Return a text on one line of at most `limit` characters, with ↵ for line breaks; `Markup` is not changed."""
    if isinstance(value, Markup):
        return value
    return _UNFIT.sub(_spelled, re.sub(r" *\n *", " ↵ ", _cut(str(value), limit)))


def fit_prose(text: str) -> Markup:
    """Return a text with its line breaks, escaped."""
    return escape(_UNFIT.sub(_spelled, _cut(text, MAX_PROSE_LENGTH)))


def _cut(text: str, limit: int) -> str:
    kept = text if len(text) <= limit else f"{text[:limit].rstrip()}… ({len(text):,} characters)"
    return kept.replace("\r\n", "\n")


def _spelled(match: re.Match[str]) -> str:
    r"""Return one character as Python escapes it; a byte of a file name that is not UTF-8 as \xe9."""
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return chr(code).encode("unicode_escape").decode()
