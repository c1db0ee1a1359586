"""Pictures and captions in a table of paths and captions."""

import os
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ldm_train.data.sources.annotations import annotate_from_values, read_key, suggest_column
from ldm_train.data.sources.items import Item, PictureFile, accept_without_caption, format_name, usual_name
from ldm_train.data.sources.rows import ROW_READERS, ProblemCounter, TableRow, read_table_rows
from ldm_train.data.sources.source import Source

MAX_NAME_LENGTH = 200  # characters of a name in a message


class Table(Source):
    """A table with a picture or a caption in each row, in its order: `.json`, `.jsonl`, `.csv`, `.tsv` or `.parquet`.

    Rows of the same picture and split become one item with all their captions. A column `split` with "held_out",
    "validation", "valid", "val", "dev" or "test" holds out; further columns become fields.

    Args:
        path: the table.
        path_column: the column of the pictures' paths, absolute or relative to `root`.
        caption_column: the column of the captions, texts or lists of texts.
        key_column: a column of unique, permanent names; None uses the path relative to `root`.
        root: a folder; None uses the table's folder.
        prefix, suffix: added to every caption.
        maps: the columns of the paths of each picture's maps, by the maps' names: {"depth": "depth_file"}.

    Raises:
        ValueError: there is no such table, folder or column, or no row.
    """

    def __init__(
        self,
        path: str,
        *,
        path_column: str = "file_name",
        caption_column: str = "text",
        key_column: str | None = None,
        root: str | None = None,
        prefix: str = "",
        suffix: str = "",
        maps: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(prefix=prefix, suffix=suffix, maps=maps)
        self.path = Path(str(path))
        if not self.path.is_file():
            raise ValueError(f"source.path={path} is not a file; set it to a table: {', '.join(ROW_READERS)}")
        if self.path.suffix.lower() not in ROW_READERS:
            raise ValueError(f"source.path={path} is not a table that can be read; accepted are {', '.join(ROW_READERS)}")
        if root is not None and not Path(root).is_dir():
            raise ValueError(f"source.root={root} is not a folder; set it to the folder that {path_column} is relative to")
        self.path_column = path_column
        self.caption_column = caption_column
        self.key_column = key_column
        self.needed = {path_column, caption_column, key_column or path_column, "split", *self.maps.values()}
        self.root = Path(root) if root is not None else self.path.parent

    def items(self) -> Iterator[Item]:
        wanted = {"path_column": self.path_column, "caption_column": self.caption_column, "key_column": self.key_column}
        wanted |= {f"maps.{name}": column for name, column in self.maps.items()}
        for setting, column in wanted.items():
            if column is not None and (self.needs_captions or setting != "caption_column"):
                self._require(column, setting)
        found: dict[str, Item] = {}
        others, named = [], ProblemCounter()
        captions: dict[str, dict[str, None]] = {}  # of pictures in several rows
        for row in read_table_rows(self.path, self.path.name, needed=self.needed):
            item = Item(row.key, None, (), row.origin, problem=row.problem) if row.problem else self._item(row)
            if not self.needs_captions:
                item = accept_without_caption(item)  # before rows with problems are counted, of which few are kept
            if item.problem is not None and named.is_full():
                continue
            first = found.setdefault(item.key, item)
            if first is not item and is_same_picture(first, item):
                captions.setdefault(item.key, dict.fromkeys(first.captions)).update(dict.fromkeys(item.captions))
            elif first is not item:
                others.append(item)
        for key, item in found.items():
            yield replace(item, captions=tuple(captions[key])) if key in captions else item
        yield from others
        yield from named.further(format_name(self.path.name))

    def _require(self, column: str, setting: str) -> None:
        """Raise ValueError if no row has a column; usually only the first row is read."""
        known: dict[str, None] = {}
        bad_rows = False
        for row in read_table_rows(self.path, self.path.name, needed=self.needed):
            if column in row.values:
                return
            known |= dict.fromkeys(row.values)
            bad_rows |= row.problem is not None
        if known:
            raise ValueError(
                f"{self.path} has no column {column!r} (source.{setting}): {suggest_column(column, known, setting)}"
            )
        if not bad_rows:
            raise ValueError(f"source.path={self.path} has no row; is it the right table?")

    def _item(self, row: TableRow) -> Item:
        apart = [self.path_column, *([self.key_column] if self.key_column is not None else []), *self.maps.values()]
        annotation = annotate_from_values(row.values, column=self.caption_column, origin=row.origin, apart=apart)
        name = row.values.get(self.path_column)
        if not isinstance(name, str) or not name.strip():
            return self._problem(row, f"names no picture: {self.path_column} is {format_name(reprlib.repr(name)[:40])}")
        path = self._find(name)
        key = self._key(row, path)
        if key is None:
            return self._problem(row, f"has no usable name: {self.key_column} is empty or an absolute path")
        if not os.path.isfile(path):  # not Path.is_file, which raises for too long names
            hint = "download it first" if "://" in name else f"it is looked for in {self.root}, see source.root"
            problem = f"{row.origin} names {format_name(name[:MAX_NAME_LENGTH])}, which is not a file; {hint}"
            return Item(key, None, (), row.origin, problem=problem)
        return Item(
            key,
            PictureFile(path),
            annotation.captions,
            annotation.origin,
            annotation.held_out,
            annotation.fields,
            annotation.problem,
            maps=self._find_maps(row),
        )

    def _find_maps(self, row: TableRow) -> dict[str, PictureFile]:
        """Return the files of a row's maps by their names, without those of empty cells."""
        paths = {name: row.values.get(column) for name, column in self.maps.items()}
        return {
            name: PictureFile(self._find(path)) for name, path in paths.items() if isinstance(path, str) and path.strip()
        }

    def _find(self, name: str) -> Path:
        """Return the file that a row names, also with other slashes or accents in another form; else the path as given."""
        usual = usual_name(name)
        others = (self.root / other for other in (usual, unicodedata.normalize("NFD", usual)))
        given = self.root / name
        return given if os.path.isfile(given) else next((path for path in others if os.path.isfile(path)), given)

    def _key(self, row: TableRow, path: Path) -> str | None:
        if self.key_column is None:
            return Path(os.path.relpath(path, self.root)).as_posix()
        return read_key(row.values.get(self.key_column))

    def _problem(self, row: TableRow, words: str) -> Item:
        return Item(row.key, None, (), row.origin, problem=f"{row.origin} {words}")


def is_same_picture(first: Item, other: Item) -> bool:
    """Return whether two items without problems have the same picture, maps and split."""
    sound = first.problem is None and other.problem is None
    return sound and (first.picture, first.maps, first.held_out) == (other.picture, other.maps, other.held_out)
