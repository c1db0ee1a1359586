"""Captions in sidecars, files next to the pictures: for `a.png`, `a.txt`, `a.caption`, `a.json` or `a.png.txt`."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from ldm_train.data.sources.annotations import Annotation, annotate_from_json, annotate_from_text, join_annotations
from ldm_train.data.sources.folder_walk import format_suffix_counts
from ldm_train.data.sources.items import format_name
from ldm_train.util.inputs import MAX_TEXT, READ_ERRORS, describe_error, read_input


class Sidecars:
    """The caption files next to pictures.

    Args:
        root: the folder.
        files: paths in it that may be caption files.
        column: the name of the caption in a JSON object.
        refuse: whether to raise ValueError, instead of returning a problem, if two files of one picture differ.
    """

    def __init__(self, root: Path, files: list[str], *, column: str, refuse: bool) -> None:
        self.root = root
        self.column = column
        self.refuse = refuse
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for file in files:
            self.by_stem[os.path.splitext(file)[0]].append(file)
        self.used: Counter[str] = Counter()

    def list_files(self, key: str) -> list[str]:
        """Return the caption files of a picture."""
        stems = (os.path.splitext(key)[0], key)
        return [file for stem in stems for file in self.by_stem.get(stem, [])]

    def annotate(self, key: str) -> Annotation:
        annotations = [self._read(file) for file in self.list_files(key)]
        if not annotations:
            stem = format_name(os.path.splitext(os.path.basename(key))[0])
            missing = f"no caption: there is no {stem}.txt, {stem}.caption or {stem}.json next to it"
            return Annotation(format_name(key), problem=missing)
        good = [one for one in annotations if one.captions]
        different = [one for one in good if one.captions != good[0].captions]
        if different:
            return self._clash(good[0], different[0])
        self.used.update(os.path.splitext(one.origin)[1].lower() for one in good)
        return join_annotations(annotations)

    def notes(self, pictures: list[str]) -> Iterator[str]:
        if self.used:
            yield f"captions from files next to the pictures: {format_suffix_counts(self.used)}"
        stems = {stem for key in pictures for stem in (os.path.splitext(key)[0], key)}
        lonely = [file for stem, files in self.by_stem.items() if stem not in stems for file in files]
        if lonely:
            yield f"caption files without a picture: {len(lonely):,} (the first: {format_name(min(lonely))})"

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
            f"{one.origin} says {one.captions[0]!r}, {other.origin} says {other.captions[0]!r}; keep one of the two files"
        )
        if self.refuse:
            raise ValueError(f"two captions of one picture: {words}, or set source.captions=metadata or template")
        return Annotation(one.origin, problem=f"two captions of one picture: {words}")
