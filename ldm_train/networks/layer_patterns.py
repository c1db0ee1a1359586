"""Layers and parameters chosen by patterns of their names."""

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def chosen(patterns: Sequence[str], names: Iterable[str], *, setting: str) -> list[str]:
    """Those of the names that a pattern matches, in their order.

    Args:
        patterns: names in which `*` stands for anything, dots among it, and `?` for one letter.
        setting: where the patterns are from, to be told.

    Raises:
        ValueError: no list, an empty one, or a pattern that matches none of the names.
    """
    names = list(names)
    if isinstance(patterns, str) or not isinstance(patterns, Sequence) or not patterns:
        raise ValueError(f"{setting}={patterns} must be a list of names' patterns, such as ['*.cross_attention.*']")
    for pattern in map(str, patterns):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"{setting}: {pattern!r} matches none of {len(names)} names, such as {', '.join(names[:2])} ('*' stands for "
                f"anything){near(pattern, names)}"
            )
    return [name for name in names if any(fnmatchcase(name, str(pattern)) for pattern in patterns)]


def near(pattern: str, names: Sequence[str]) -> str:
    """The parts of names that are nearest to the part of a pattern that no name has, to end a message with."""
    parts = [part.strip(".") for part in re.split(r"[*?]", pattern)]
    wrong = next((part for part in parts if not any(part in name for name in names)), max(parts, key=len))
    count = wrong.count(".") + 1
    words = [name.split(".") for name in names]
    there = {".".join(one[i : i + count]) for one in words for i in range(len(one) - count + 1)}
    close = difflib.get_close_matches(wrong, sorted(there), n=3, cutoff=0.5)
    return f"; near to {wrong!r} are {', '.join(close)}" if close else ""
