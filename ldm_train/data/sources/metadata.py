"""Captions in tables named `metadata`, each naming pictures relative to its own folder (Hugging Face's imagefolder)."""

import os
import posixpath
import reprlib
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ldm_train.data.sources.annotations import Annotation, annotate_from_values, format_columns
from ldm_train.data.sources.items import Item, format_name
from ldm_train.data.sources.rows import ProblemCounter, TableRow, read_rows

FILE_NAME = "file_name"


class MetadataTables:
    """The rows of all metadata files, by the pictures that they name.

    Args:
        root: the folder.
        files: the metadata files, by their paths in it; one in each folder.
        pictures: all there are.
        column: the name of the caption.
    """

    def __init__(self, root: Path, files: list[str], pictures: list[str], *, column: str) -> None:
        folders = [posixpath.dirname(file) for file in files]
        twice = next((i for i in range(1, len(files)) if folders[i] in folders[:i]), None)
        if twice is not None:
            both = ", ".join(
                format_name(file) for file, folder in zip(files, folders, strict=True) if folder == folders[twice]
            )
            raise ValueError(f"which metadata is meant? one folder has {both}; keep one of them")
        self.files = files
        self.pictures = set(pictures)
        self.column = column
        self.rows: dict[str, TableRow] = {}
        self.problems: list[Item] = []
        self.named = ProblemCounter()
        for file in files:
            self._read(root, file)
        self.problems.extend(self.named.further(self._called()))

    def tell(self, key: str) -> Annotation:
        row = self.rows.get(key)
        if row is None:
            broken = next((f"; {item.problem}" for item in self.problems if item.key in self.files), "")
            return Annotation(format_name(key), problem=f"not named in {self._called()}{broken}")
        return annotate_from_values(row.values, column=self.column, origin=row.origin, apart=[FILE_NAME])

    def notes(self, pictures: list[str]) -> Iterator[str]:
        yield f"captions from {self._called()}"

    def _called(self) -> str:
        first = format_name(self.files[0])
        return first if len(self.files) == 1 else f"{first} or the {len(self.files) - 1:,} further metadata files"

    def _read(self, root: Path, file: str) -> None:
        row = None
        for row in read_rows(root / file, file, needed={FILE_NAME, self.column, "split"}):
            if row.problem is None and FILE_NAME not in row.values:
                self._add_problem(row.key, row, f"{row.origin} has no {FILE_NAME!r}; it has {format_columns(row.values)}")
                if not file.lower().endswith(".jsonl"):
                    return  # each row lacks it alike
            elif row.problem is None:
                self._place(row, posixpath.dirname(file))
            else:
                self._add_problem(row.key, row, row.problem)
        if row is None:
            self.problems.append(Item(file, None, (), format_name(file), problem=f"{format_name(file)} has no row"))

    def _place(self, row: TableRow, folder: str) -> None:
        """Note which picture a row is about."""
        name = row.values[FILE_NAME]
        if not isinstance(name, str) or not name.strip():
            self._add_problem(
                row.key, row, f"{row.origin}: {FILE_NAME} is not a text but {format_name(reprlib.repr(name)[:40])}"
            )
            return
        key = posixpath.normpath(posixpath.join(folder, name))
        if os.path.isabs(key) or key.split("/")[0] == "..":
            self._add_problem(row.key, row, f"{row.origin} names {format_name(name)}, which leads out of the folder")
        elif key not in self.pictures:
            self._add_problem(
                key, row, f"{row.origin} names {format_name(name)}, which is no picture in the folder{self._near(key)}"
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
        near = self._alike.get(_folded(key))
        return f"; there is {format_name(near)}" if near else ""

    @cached_property
    def _alike(self) -> dict[str, str]:
        return {_folded(picture): picture for picture in self.pictures}


def _folded(key: str) -> str:
    """What names have in common that differ in case, slashes, or the way that accents are composed."""
    return unicodedata.normalize("NFC", key.replace("\\", "/")).casefold()
