"""Select layers and parameters by patterns of their names."""

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def match_patterns(patterns: Sequence[str], names: Iterable[str], *, setting: str) -> list[str]:
    """Return the names that a pattern matches, in their order.

    Args:
        patterns: names in which `*` matches anything, including dots, and `?` one letter.
        setting: name of the setting that has the patterns, for the message.

    Raises:
        ValueError: the patterns are no list or an empty one, or one of them matches no name.
    """
    names = list(names)
    if isinstance(patterns, str) or not isinstance(patterns, Sequence) or not patterns:
        raise ValueError(f"{setting}={patterns} must be a list of patterns for names, such as ['*.cross_attention.*']")
    for pattern in map(str, patterns):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"{setting}: {pattern!r} matches none of {len(names)} names, such as {', '.join(names[:2])} ('*' matches "
                f"anything){suggest_near_names(pattern, names)}"
            )
    return [name for name in names if any(fnmatchcase(name, str(pattern)) for pattern in patterns)]


def suggest_near_names(pattern: str, names: Sequence[str]) -> str:
    """Return an end for a message that names the parts of names nearest to a pattern's wrong part; "" if none is near."""
    parts = [part.strip(".") for part in re.split(r"[*?]", pattern)]
    wrong = next((part for part in parts if not any(part in name for name in names)), max(parts, key=len))
    count = wrong.count(".") + 1
    words = [name.split(".") for name in names]
    existing = {".".join(one[i : i + count]) for one in words for i in range(len(one) - count + 1)}
    close = difflib.get_close_matches(wrong, sorted(existing), n=3, cutoff=0.5)
    return f"; nearest to {wrong!r}: {', '.join(close)}" if close else ""
