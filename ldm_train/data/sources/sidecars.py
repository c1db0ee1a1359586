"""Captions in a file beside each picture: `a.txt`, `a.caption`, `a.json`, or `a.png.txt`, for `a.png`."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from ldm_train.data.sources.annotations import Annotation, annotate_from_json, annotate_from_text, join_annotations
from ldm_train.data.sources.folder_walk import format_suffix_counts
from ldm_train.data.sources.items import format_name
from ldm_train.util.inputs import MAX_TEXT, READ_ERRORS, describe_error, read_input


class Sidecars:
    """The files beside pictures.

    Args:
        root: the folder.
        files: those that may be captions, by their paths in it.
        column: the name of the caption in a JSON object.
        refuse: raise ValueError, instead of telling a problem, where two files of one picture differ.
    """

    def __init__(self, root: Path, files: list[str], *, column: str, refuse: bool) -> None:
        self.root = root
        self.column = column
        self.refuse = refuse
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for file in files:
            self.by_stem[os.path.splitext(file)[0]].append(file)
        self.used: Counter[str] = Counter()

    def beside(self, key: str) -> list[str]:
        """A picture's files."""
        stems = (os.path.splitext(key)[0], key)
        return [file for stem in stems for file in self.by_stem.get(stem, [])]

    def tell(self, key: str) -> Annotation:
        told = [self._read(file) for file in self.beside(key)]
        if not told:
            stem = format_name(os.path.splitext(os.path.basename(key))[0])
            missing = f"no caption: beside it lies no {stem}.txt, {stem}.caption or {stem}.json"
            return Annotation(format_name(key), problem=missing)
        good = [one for one in told if one.captions]
        different = [one for one in good if one.captions != good[0].captions]
        if different:
            return self._clash(good[0], different[0])
        self.used.update(os.path.splitext(one.origin)[1].lower() for one in good)
        return join_annotations(told)

    def notes(self, pictures: list[str]) -> Iterator[str]:
        if self.used:
            yield f"captions from files beside the pictures: {format_suffix_counts(self.used)}"
        stems = {stem for key in pictures for stem in (os.path.splitext(key)[0], key)}
        lonely = [file for stem, files in self.by_stem.items() if stem not in stems for file in files]
        if lonely:
            yield f"files of captions that belong to no picture: {len(lonely):,} (the first: {format_name(min(lonely))})"

    def _read(self, file: str) -> Annotation:
        origin = format_name(file)
        try:
            content = read_input(self.root / file, limit=MAX_TEXT)
        except READ_ERRORS as error:
            return Annotation(origin, problem=f"no caption: {origin} cannot be read: {describe_error(error)}", damaged=True)
        if file.lower().endswith(".json"):
            return annotate_from_json(content, column=self.column, origin=origin)
        return annotate_from_text(content, origin=origin)

    def _clash(self, one: Annotation, other: Annotation) -> Annotation:
        words = (
            f"{one.origin} says {one.captions[0]!r}, {other.origin} says {other.captions[0]!r}; "
            "which one is meant? keep one of the two files"
        )
        if self.refuse:
            raise ValueError(f"two captions of one picture: {words}, or set source.captions=metadata or template")
        return Annotation(one.origin, problem=f"two captions of one picture: {words}")
