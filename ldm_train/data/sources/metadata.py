"""Captions in tables that name pictures: `metadata` files (Hugging Face's imagefolder), and tables of any other kind."""

import os
import posixpath
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from ldm_train.data.sources.annotations import (
    HELD_OUT_SPLITS,
    Annotation,
    annotate_from_values,
    choose_caption_column,
    format_columns,
    join_annotations,
    read_split,
)
from ldm_train.data.sources.items import Item, format_name, relative_path, usual_name
from ldm_train.data.sources.rows import ProblemCounter, TableRow, read_table_rows
from ldm_train.data.sources.table_hints import FILE_NAME, name_columns

ELSEWHERE = "; given as source.captions_from, a table may name pictures by their file names only"


class MetadataTables:
    """The rows of all metadata files, by the pictures they name. Several rows of a file may name one picture.

    Args:
        root: the folder.
        files: the tables by their names, which are paths in the folder.
        pictures: paths of all pictures in it.
        column: the name of the caption's column.
        loose: whether the tables may come from elsewhere: pictures may be named by their file names only, captions may be in
            any of the usual columns, and rows about other pictures are counted and are no problems.

    Raises:
        ValueError: one folder has several metadata files.
    """

    def __init__(
        self, root: Path, files: Mapping[str, Path], pictures: list[str], *, column: str, loose: bool = False
    ) -> None:
        folders = Counter(posixpath.dirname(file) for file in files)
        both = [format_name(file) for file in files if folders[posixpath.dirname(file)] > 1]
        if both and not loose:
            raise ValueError(f"one folder has several metadata files, {', '.join(both)}; keep one of them")
        self.root = root
        self.files = list(files)
        self.pictures = set(pictures)
        self.column = column
        self.loose = loose
        self.rows: dict[str, list[TableRow]] = {}
        self.problems: list[Item] = []
        self.named = ProblemCounter()
        self.others = 0  # rows about other pictures
        for file, path in files.items():
            self._read(path, file)
        self.problems.extend(self.named.further(self._describe_files()))

    def annotate(self, key: str) -> Annotation:
        rows = self.rows.get(key)
        if rows is None:
            return Annotation(format_name(key), problem=f"not named in {self._describe_files('or')}{self._broken_file}")
        return join_annotations([self._annotate(row) for row in rows], join_captions=True)

    def _annotate(self, row: TableRow) -> Annotation:
        column = choose_caption_column(row.values, self.column, further=["tags"]) if self.loose else self.column
        return annotate_from_values(row.values, column=column, origin=row.origin, apart=[FILE_NAME])

    def notes(self, pictures: list[str]) -> Iterator[str]:
        yield f"captions from {self._describe_files()}"
        if self.others:
            rows = "row names" if self.others == 1 else "rows name"
            yield f"{self.others:,} {rows} no picture in the folder: of {self._describe_files()}"

    def _describe_files(self, conjunction: str = "and") -> str:
        first = format_name(self.files[0])
        others = len(self.files) - 1
        return f"{first} {conjunction} {others:,} other metadata file{'s' * (others != 1)}" if others else first

    def _read(self, path: Path, file: str) -> None:
        row = None
        for row in read_table_rows(path, file, needed={FILE_NAME, self.column, "split"}):
            if row.problem is None and FILE_NAME not in row.values:
                settings = name_columns(path, self.root, row.values)
                columns = f"{row.origin} has no {FILE_NAME!r}; it has {format_columns(row.values)}"
                self._add_problem(row.key, row, f"{columns}; {settings} reads it" if settings else columns)
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
        key = self._find(name, folder)
        first = self.rows.get(key, [None])[0]
        if key not in self.pictures and self.loose:
            self.others += 1
        elif os.path.isabs(key) or key.split("/")[0] == "..":
            self._add_problem(
                row.key, row, f"{row.origin} names {format_name(name)}, which is outside the folder{ELSEWHERE}"
            )
        elif key not in self.pictures:
            self._add_problem(
                key, row, f"{row.origin} names {format_name(name)}, which is not a picture in the folder{self._near(key)}"
            )
        elif first is not None and not _may_share(first, row):
            self._add_problem(row.key, row, f"{row.origin} names {format_name(name)}, as {first.origin} does already")
        else:
            self.rows.setdefault(key, []).append(row)

    def _find(self, name: str, folder: str) -> str:
        """Return the path of the picture that a row names, or the path that it gives if there is no such picture."""
        given = posixpath.normpath(posixpath.join(folder, name))
        if given in self.pictures:
            return given
        if os.path.isabs(name):
            given = next((path for root in self._roots if not (path := relative_path(name, root)).startswith("..")), given)
        usual = [self._by_usual_name.get(usual_name(path)) for path in ([given, name] if self.loose else [given])]
        if self.loose:
            last = posixpath.basename(usual_name(name))
            usual += [self._by_last_name.get(last), self._by_last_name.get(posixpath.splitext(last)[0])]
        return next((key for key in usual if key), given)

    @cached_property
    def _roots(self) -> list[str]:
        return [os.path.abspath(self.root), os.path.realpath(self.root)]

    @cached_property
    def _by_usual_name(self) -> dict[str, str]:
        return {usual_name(picture): picture for picture in self.pictures}

    @cached_property
    def _by_last_name(self) -> dict[str, str]:
        """Pictures by their file name, with and without suffix; "" if several have it."""
        found: dict[str, str] = {}
        for usual, picture in self._by_usual_name.items():
            last = posixpath.basename(usual)
            for name in {last, posixpath.splitext(last)[0]}:
                found[name] = "" if name in found else picture
        return found

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


def _may_share(row: TableRow, other: TableRow) -> bool:
    """Return whether two rows of one picture are about several captions of it: of one table, and of one split."""
    table, other_table = (one.key.rpartition(":")[0] for one in (row, other))
    split, other_split = (read_split(one.values) in HELD_OUT_SPLITS for one in (row, other))
    return (table, split) == (other_table, other_split)


def _folded(key: str) -> str:
    """Return a name in which case, slashes and composed accents make no difference."""
    return usual_name(key).casefold()
