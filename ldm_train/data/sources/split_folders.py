"""Folders whose names say how a data set is split: `train` next to `val`, `valid`, `validation`, `dev` or `test`."""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from ldm_train.data.sources.annotations import HELD_OUT_SPLITS
from ldm_train.data.sources.items import format_name

TRAINED = re.compile(r"train(ing)?(20\d\d)?", re.IGNORECASE)
SPLIT_NAMES = re.compile(rf"({'|'.join(HELD_OUT_SPLITS)}|testing|heldout)(20\d\d)?", re.IGNORECASE)


class SplitFolders:
    """The split of each picture by the names of its folders. One that is held out needs a `train` next to it.

    Args:
        pictures: paths of all pictures in the source.
    """

    def __init__(self, pictures: list[str]) -> None:
        children: dict[str, set[str]] = defaultdict(set)
        for folder in {posixpath.dirname(key) for key in pictures} - {""}:
            while folder:
                parent, name = posixpath.split(folder)
                children[parent].add(name)
                folder = parent
        self.held_out: dict[str, bool] = {}  # by the split's folder
        for parent, names in children.items():
            kinds = {name: SPLIT_NAMES.fullmatch(name) is not None for name in names if TRAINED.fullmatch(name)}
            kinds |= {name: True for name in names if SPLIT_NAMES.fullmatch(name)}
            if len(set(kinds.values())) == 2:
                self.held_out |= {posixpath.join(parent, name): out for name, out in kinds.items()}
        self.counts: Counter[str] = Counter()

    def classify(self, key: str) -> tuple[bool, str]:
        """Return whether a picture is held out, and its path without the split's folder."""
        if not self.held_out:
            return False, key
        parts = key.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder in self.held_out:
                self.counts[folder] += 1
                return self.held_out[folder], "/".join([*parts[: depth - 1], *parts[depth:]])
        return False, key

    def notes(self) -> Iterator[str]:
        if self.held_out:
            listed = ", ".join(
                f"{format_name(folder)} ({self.counts[folder]:,}{' held out' if out else ''})"
                for folder, out in sorted(self.held_out.items())
            )
            yield f"split by folders: {listed}; source.splits=false trains on all"
