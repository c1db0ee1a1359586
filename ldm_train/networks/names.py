"""Layers and parameters chosen by patterns of their names."""

import difflib
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
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            told = f"; the nearest are {', '.join(near)}" if near else ""
            raise ValueError(f"{setting}: {pattern!r} matches none of {len(names)} names ('*' stands for anything){told}")
    return [name for name in names if any(fnmatchcase(name, str(pattern)) for pattern in patterns)]
