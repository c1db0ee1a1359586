"""Captions in files named `metadata`, which name pictures relative to their folder (Hugging Face's imagefolder)."""

import os
import posixpath
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ldm_train.data.sources.annotations import Annotation, annotate_from_values, format_columns
from ldm_train.data.sources.items import Item, format_name
from ldm_train.data.sources.rows import ProblemCounter, TableRow, read_table_rows

FILE_NAME = "file_name"


class MetadataTables:
    """The rows of all metadata files, by the pictures they name.

    Args:
        root: the folder.
        files: the metadata files' paths in it, at most one for each folder.
        pictures: paths of all pictures in it.
        column: the name of the caption's column.
    """

    def __init__(self, root: Path, files: list[str], pictures: list[str], *, column: str) -> None:
        folders = [posixpath.dirname(file) for file in files]
        twice = next((folder for folder, count in Counter(folders).items() if count > 1), None)
        if twice is not None:
            both = ", ".join(format_name(file) for file, folder in zip(files, folders, strict=True) if folder == twice)
            raise ValueError(f"one folder has several metadata files, {both}; keep one of them")
        self.files = files
        self.pictures = set(pictures)
        self.column = column
        self.rows: dict[str, TableRow] = {}
        self.problems: list[Item] = []
        self.named = ProblemCounter()
        for file in files:
            self._read(root, file)
        self.problems.extend(self.named.further(self._describe_files()))

    def annotate(self, key: str) -> Annotation:
        row = self.rows.get(key)
        if row is None:
            return Annotation(format_name(key), problem=f"not named in {self._describe_files()}{self._broken_file}")
        return annotate_from_values(row.values, column=self.column, origin=row.origin, apart=[FILE_NAME])

    def notes(self, pictures: list[str]) -> Iterator[str]:
        yield f"captions from {self._describe_files()}"

    def _describe_files(self) -> str:
        first = format_name(self.files[0])
        return first if len(self.files) == 1 else f"{first} or the {len(self.files) - 1:,} further metadata files"

    def _read(self, root: Path, file: str) -> None:
        row = None
        for row in read_table_rows(root / file, file, needed={FILE_NAME, self.column, "split"}):
            if row.problem is None and FILE_NAME not in row.values:
                self._add_problem(row.key, row, f"{row.origin} has no {FILE_NAME!r}; it has {format_columns(row.values)}")
                if not file.lower().endswith(".jsonl"):
                    return  # all further rows lack it too
            elif row.problem is None:
                self._place(row, posixpath.dirname(file))
            else:
                self._add_problem(row.key, row, row.problem)
        if row is None:
            self.problems.append(Item(file, None, (), format_name(file), problem=f"{format_name(file)} has no row"))

    def _place(self, row: TableRow, folder: str) -> None:
        """Assign a row to the picture that it names, or add a problem."""
        name = row.values[FILE_NAME]
        if not isinstance(name, str) or not name.strip():
            self._add_problem(
                row.key, row, f"{row.origin}: {FILE_NAME} is not a text but {format_name(reprlib.repr(name)[:40])}"
            )
            return
        key = posixpath.normpath(posixpath.join(folder, name))
        if os.path.isabs(key) or key.split("/")[0] == "..":
            self._add_problem(row.key, row, f"{row.origin} names {format_name(name)}, which is outside the folder")
        elif key not in self.pictures:
            self._add_problem(
                key, row, f"{row.origin} names {format_name(name)}, which is not a picture in the folder{self._near(key)}"
            )
        elif key in self.rows:
            self._add_problem(
                row.key, row, f"{row.origin} names {format_name(name)}, as {self.rows[key].origin} does already"
            )
        else:
            self.rows[key] = row

    def _add_problem(self, key: str, row: TableRow, problem: str) -> None:
        if not self.named.is_full():
            self.problems.append(Item(key, None, (), row.origin, problem=problem))

    def _near(self, key: str) -> str:
        near = self._by_folded_name.get(_folded(key))
        return f"; there is {format_name(near)}" if near else ""

    @cached_property
    def _broken_file(self) -> str:
        """What is wrong with the first file that cannot be read, for a message."""
        files = set(self.files)
        return next((f"; {item.problem}" for item in self.problems if item.key in files), "")

    @cached_property
    def _by_folded_name(self) -> dict[str, str]:
        return {_folded(picture): picture for picture in self.pictures}


def _folded(key: str) -> str:
    """Return a name in which case, slashes and composed accents make no difference."""
    return unicodedata.normalize("NFC", key.replace("\\", "/")).casefold()
