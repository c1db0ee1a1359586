"""Strangers' text made fit for a page: what cannot be shown is spelled out, and what does not end is cut."""

import re

from markupsafe import Markup, escape

LINE, PROSE = 300, 5000  # characters

# Controls, surrogates and non-characters, which are no HTML; and the marks that reorder or hide the text after them.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)


def line(value: object, limit: int = LINE) -> str:
    """Text on one line of at most `limit` characters, line ends as ↵; a `Markup` is ours, and left alone."""
    if isinstance(value, Markup):
        return value
    return _UNFIT.sub(_spelled, re.sub(r" *\n *", " ↵ ", _cut(str(value), limit)))


def prose(text: str) -> Markup:
    """Text with its line ends, escaped."""
    return escape(_UNFIT.sub(_spelled, _cut(text, PROSE)))


def _cut(text: str, limit: int) -> str:
    kept = text if len(text) <= limit else f"{text[:limit].rstrip()}… ({len(text):,} characters)"
    return kept.replace("\r\n", "\n")


def _spelled(match: re.Match[str]) -> str:
    r"""One character as Python writes it; a byte of a file name that is no UTF-8 as \xe9."""
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return chr(code).encode("unicode_escape").decode()
