"""Folders named as kohya's scripts read them: `10_sks dog` has pictures of "sks dog" that an epoch has 10 times."""

import math
import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace

from ldm_train.data.sources.annotations import Annotation
from ldm_train.data.sources.caption_template import read_words
from ldm_train.data.sources.items import format_name

NAME = re.compile(r"([1-9]\d{0,3})_(.*\S.*)")


class KohyaFolders:
    """The repeats and the captions in the names of folders.

    Args:
        pictures: paths of all pictures in the source.
    """

    def __init__(self, pictures: list[str]) -> None:
        self.names = {folder: _parse(folder) for folder in {posixpath.dirname(key) for key in pictures}}
        self.common = math.gcd(*(repeats for repeats, _ in self.names.values())) or 1

    def repeats(self, key: str) -> int:
        """Return how often an epoch has a picture; what all pictures have in common makes no difference and is left out."""
        return self.names[posixpath.dirname(key)][0] // self.common

    def complete(self, key: str, annotation: Annotation) -> Annotation:
        """Return the annotation with the folder's caption if nothing else has one."""
        caption = self.names[posixpath.dirname(key)][1]
        if annotation.captions or annotation.damaged or not caption:
            return annotation
        return replace(annotation, captions=(caption,), problem=None)

    def notes(self) -> Iterator[str]:
        listed = ", ".join(
            f"{format_name(folder) or 'no folder'} ({repeats // self.common:,})"
            for folder, (repeats, _) in sorted(self.names.items())[:5]
        )
        yield f"repeats of the folders' pictures in an epoch: {listed}{', …' if len(self.names) > 5 else ''}"


def is_kohya_layout(pictures: list[str]) -> bool:
    """Return whether all pictures are in folders of such names."""
    return bool(pictures) and all(_parse(folder)[1] for folder in {posixpath.dirname(key) for key in pictures})


def _parse(folder: str) -> tuple[int, str]:
    """Return the repeats and the caption in the innermost folder of such a name; 1 and "" if there is none."""
    matches = [match for match in map(NAME.fullmatch, folder.split("/")) if match]
    return (int(matches[-1][1]), read_words(matches[-1][2])) if matches else (1, "")
