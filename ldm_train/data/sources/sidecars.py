"""Captions in sidecars, files next to the pictures: for `a.png`, `a.txt`, `a.caption`, `a.json` or `a.png.txt`."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ldm_train.data.sources.annotations import (
    Annotation,
    Lines,
    annotate_from_json,
    annotate_from_text,
    describe_parameters,
    is_same_text,
    join_annotations,
)
from ldm_train.data.sources.folder_walk import format_suffix_counts
from ldm_train.data.sources.items import compose_accents, format_name
from ldm_train.util.inputs import MAX_LINE, MAX_TEXT, READ_ERRORS, describe_error, read_input


class Sidecars:
    """The caption files next to pictures, or in another folder with the pictures' names.

    Args:
        root: the folder.
        files: paths in it that may be caption files.
        column: the name of the caption in a JSON object.
        lines: whether each line is a caption, or all lines are one.
        order: suffixes (".txt"); the first file with a caption is used. None: all, and files of one picture must agree.
        refuse: whether to raise ValueError, instead of returning a problem, if two files of one picture differ.
        elsewhere: whether `root` is another folder than the pictures', so that only the ends of the paths must be the same.
    """

    def __init__(
        self,
        root: Path,
        files: list[str],
        *,
        column: str,
        lines: Lines = "each",
        order: Sequence[str] | None = None,
        refuse: bool,
        elsewhere: bool = False,
    ) -> None:
        self.root = root
        self.column = column
        self.lines = lines
        self.order = order
        self.refuse = refuse
        self.elsewhere = elsewhere
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for file in files:
            self.by_stem[os.path.splitext(compose_accents(file))[0]].append(file)
        self.used: Counter[str] = Counter()
        self.num_parameters = 0

    def list_files(self, key: str) -> list[str]:
        """Return the caption files of a picture."""
        key = compose_accents(key)
        parts = key.split("/")
        for tail in ("/".join(parts[start:]) for start in range(len(parts) if self.elsewhere else 1)):
            files = [file for stem in (os.path.splitext(tail)[0], tail) for file in self.by_stem.get(stem, [])]
            if files:
                return files
        return []

    def annotate(self, key: str) -> Annotation:
        annotations = [self._read(file) for file in self._choose(self.list_files(key))]
        good = [one for one in annotations if one.captions]
        if not good and (self.order is not None or not annotations):
            suffixes = self.order or [".txt", ".caption", ".json"]
            where = f"in {self.root}" if self.elsewhere else "next to it"
            missing = f"no caption: there is no {' or '.join(suffixes)} of its name {where}"
            annotations = [*(one for one in annotations if one.problem), Annotation(format_name(key), problem=missing)]
        different = [one for one in good if not is_same_text(one.captions, good[0].captions)]
        if different and self.order is None:
            return self._clash(good[0], different[0])
        self.used.update(os.path.splitext(one.origin)[1].lower() for one in (good if self.order is None else good[:1]))
        return join_annotations(annotations)

    def _choose(self, files: list[str]) -> list[str]:
        """Return the files to read: in the order of the setting, and a JSON with fields after them."""
        if self.order is None:
            return files
        suffixes = [*self.order, *({".json"} - {*self.order})]
        return [file for suffix in suffixes for file in files if file.lower().endswith(suffix)]

    def notes(self, pictures: list[str]) -> Iterator[str]:
        if self.used:
            where = f"in {self.root}" if self.elsewhere else "next to the pictures"
            yield f"captions from files {where}: {format_suffix_counts(self.used)}"
        yield from describe_parameters(self.num_parameters)
        lonely = self.list_lonely(pictures)
        if lonely and not self.elsewhere:
            yield f"caption files without a picture: {len(lonely):,} (the first: {format_name(min(lonely))})"

    def list_lonely(self, pictures: list[str]) -> list[str]:
        """Return the files that belong to no picture."""
        stems = {stem for key in map(compose_accents, pictures) for stem in (os.path.splitext(key)[0], key)}
        return [file for stem, files in self.by_stem.items() if stem not in stems for file in files]

    def _read(self, file: str) -> Annotation:
        origin = format_name(file)
        try:
            is_json = file.lower().endswith(".json")
            content = read_input(self.root / file, limit=MAX_LINE if is_json else MAX_TEXT)
        except READ_ERRORS as error:
            return Annotation(origin, problem=f"no caption: {origin} cannot be read: {describe_error(error)}", damaged=True)
        if not is_json:
            annotation = annotate_from_text(content, origin=origin, lines=self.lines)
            self.num_parameters += annotation.has_parameters
            return annotation
        annotation = annotate_from_json(content, column=self.column, origin=origin)
        if self.order is None or ".json" in self.order:
            return annotation
        return replace(annotation, captions=(), problem=None, damaged=False)

    def _clash(self, one: Annotation, other: Annotation) -> Annotation:
        words = f"{one.origin} says {one.captions[0]!r}, {other.origin} says {other.captions[0]!r}; keep one of the files"
        if self.refuse:
            kinds = {os.path.splitext(place.origin)[1].lower().lstrip(".") for place in (one, other)}
            order = ",".join(sorted(kinds, reverse=True))
            raise ValueError(f"two captions of one picture: {words}, or set their order, as source.captions=[{order}]")
        return Annotation(one.origin, problem=f"two captions of one picture: {words}")
