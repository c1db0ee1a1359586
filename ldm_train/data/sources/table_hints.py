"""Look into tables before they are suggested as captions, and name the settings that read them."""

import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from ldm_train.data.pictures.formats import PICTURE_SUFFIXES
from ldm_train.data.sources.annotations import CAPTION_COLUMNS
from ldm_train.data.sources.caption_texts import TAG_COLUMN, is_box_label
from ldm_train.data.sources.items import usual_name
from ldm_train.data.sources.rows import read_table_rows
from ldm_train.util.inputs import READ_ERRORS, open_input
from ldm_train.util.text import as_word

FILE_NAME = "file_name"
ROWS = 100  # of a table that are looked at
PART = 2**20  # bytes of a JSON file that are looked at, at its beginning and at its end
NAMES = 200  # pictures that are looked for in them


def suggest_table(path: Path, root: Path, pictures: Sequence[str]) -> str | None:
    """Return the settings that read a table, if it names at least one of the pictures, of several at least two."""
    names = {posixpath.basename(usual_name(key)) for key in pictures}
    settings = as_word("source.captions_from", path)
    try:
        if path.suffix.lower() == ".json":
            return settings if _has_captions(path, sorted(names)[:NAMES]) else None
        stems = {posixpath.splitext(name)[0] for name in names}
        for row in islice(read_table_rows(path, path.name, needed=CAPTION_COLUMNS), ROWS):
            given = row.values.get(FILE_NAME)
            if isinstance(given, str) and posixpath.splitext(posixpath.basename(usual_name(given)))[0] in stems:
                return settings
            if any(posixpath.basename(usual_name(text)) in names for text in row.values.values() if isinstance(text, str)):
                return name_columns(path, root, row.values)
    except READ_ERRORS:
        return None
    return None


def name_columns(path: Path, root: Path, values: Mapping[str, object]) -> str | None:
    """Return the settings of `source=table` for a table with such a row; None if no column names a picture.

    Args:
        root: the folder of the pictures.
    """
    texts = {name: text for name, text in values.items() if isinstance(text, str) and text.strip()}
    paths = [name for name, text in texts.items() if posixpath.splitext(text.strip().lower())[1] in PICTURE_SUFFIXES]
    if not paths:
        return None
    name = next((one for one in paths if "://" not in texts[one]), paths[0])
    others = {column: text for column, text in texts.items() if column not in paths and any(map(str.isalpha, text))}
    usual = [column for column in others if column.lower() in CAPTION_COLUMNS]
    lists = [column for column, value in values.items() if isinstance(value, list) and TAG_COLUMN.fullmatch(column)]
    caption = next(iter([*usual, *sorted(others, key=lambda column: -len(others[column])), *lists]), None)
    words = ["source=table", as_word("source.path", path), as_word("source.path_column", name)]
    words += [as_word("source.caption_column", caption)] if caption is not None else []
    relative = usual_name(texts[name])
    if not os.path.isfile(path.parent / relative) and os.path.abspath(path.parent) != os.path.abspath(root):
        words.append(as_word("source.root", root))
    return " ".join(words)


def has_box_labels(files: Iterator[Path] | Sequence[Path]) -> bool:
    """Return whether one of the first text files has labels of boxes, as YOLO's."""
    for file in islice(files, ROWS):
        try:
            with open_input(file, limit=None) as content:
                first = content.readline(PART).decode("utf-8", "replace")
        except READ_ERRORS:
            continue
        if is_box_label(first):
            return True
    return False


def _has_captions(path: Path, names: Sequence[str]) -> bool:
    """Return whether a JSON file names pictures and has texts for them, by its beginning and its end."""
    with open_input(path, limit=None) as file:
        content = file.read(PART)
        file.seek(max(len(content), os.path.getsize(path) - PART))
        text = (content + file.read(PART)).decode("utf-8", "replace")
    if '"annotations"' in text and '"caption"' not in text:
        return False  # COCO's boxes or key points
    forms = ((name, json.dumps(name)[1:-1], f'"{posixpath.splitext(name)[0]}"') for name in names)
    matches = (name for name, *written in forms if any(form in text for form in (name, *written)))
    return len(list(islice(matches, 2))) >= min(2, len(names))
