"""Find captions that a folder's settings do not read, and name the setting that reads them."""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ldm_train.data.sources.caption_template import read_words
from ldm_train.data.sources.folder_walk import FolderTree
from ldm_train.data.sources.items import compose_accents, format_name
from ldm_train.data.sources.kohya_folders import is_kohya_layout
from ldm_train.util.text import as_word

FOLDERS = ("captions", "texts", "txt", "prompts")
SEARCHED = 10_000  # pictures without captions that are looked for elsewhere
NUMBERED = re.compile(r"(img|dsc|dscn|dscf|pxl|image|photo|picture|frame|screenshot|whatsapp|p)?[\W\d_]*", re.IGNORECASE)


def suggest_caption_places(root: Path, tree: FolderTree, missing: Sequence[str], lonely: Sequence[str]) -> Iterator[str]:
    """Yield a message for each place that may have the captions of pictures.

    Args:
        root: the folder.
        missing: paths of pictures without captions.
        lonely: paths of caption files that belong to no picture.
    """
    folders = _match_folders(missing[:SEARCHED], lonely)
    for folder, count in folders.most_common(1):
        yield (
            f"{count:,} pictures without a caption have a file of their name in {format_name(folder)}; "
            f"{as_word('source.captions_from', root / folder)} reads it"
        )
    tables = [*tree.tables, *(file for file in lonely if file.lower().endswith(".json"))]
    for table in [] if folders else tables[:3]:
        yield f"if {format_name(table)} has the captions, {as_word('source.captions_from', root / table)} reads it"
    siblings = [] if folders or tables else list(_list_siblings(root))
    for place in siblings[:3]:
        yield f"if {place.name} next to the folder has the captions, {as_word('source.captions_from', place)} reads it"
    if is_kohya_layout(tree.pictures):
        folder = posixpath.dirname(tree.pictures[0])
        yield f"folders such as {format_name(folder)} give repeats and a caption as kohya's do; source=kohya reads them"
    elif not folders and not tables and not siblings:
        words = [read_words(posixpath.splitext(posixpath.basename(key))[0]) for key in missing[:SEARCHED]]
        named = [text for text in words if not NUMBERED.fullmatch(text) and re.search(r"[^\W\d_]{3}", text)]
        if 2 * len(named) > len(words):
            yield f"if the file names are the captions ({named[0]!r}), {as_word('source.template', '{file}')} reads them"
        elif any("/" in key for key in missing):
            template = as_word("source.template", "a photo of a {folder}")
            yield f"if the folders' names say what the pictures are, {template} uses them"


def _match_folders(missing: Sequence[str], lonely: Sequence[str]) -> Counter[str]:
    """Return folders with files named as pictures elsewhere, such as `captions` for `images`, and their numbers of files."""
    by_name = {posixpath.basename(_stem(file)): file for file in lonely}
    found: Counter[str] = Counter()
    for key in missing:
        file = by_name.get(posixpath.basename(_stem(key)))
        if file is not None:
            here, there = _stem(key).split("/"), _stem(file).split("/")
            while here and there and here[-1] == there[-1]:
                here.pop()
                there.pop()
            found["/".join(file.split("/")[: len(there)]) or "."] += 1
    return found


def _list_siblings(root: Path) -> Iterator[Path]:
    """Yield folders and tables of captions next to the source's folder, as `captions` is to `images`."""
    parent = Path(os.path.abspath(root)).parent
    yield from (parent / name for name in FOLDERS if (parent / name).is_dir() and parent / name != root)
    yield from sorted(parent.glob("annotations/*caption*.json"))


def _stem(path: str) -> str:
    return posixpath.splitext(compose_accents(path))[0]
