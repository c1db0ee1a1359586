"""Find captions that a folder's settings do not read, and name the setting that reads them."""

import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

from ldm_train.data.sources.caption_template import read_words
from ldm_train.data.sources.folder_walk import SIDECAR_SUFFIXES, FolderTree
from ldm_train.data.sources.items import compose_accents, format_name
from ldm_train.data.sources.kohya_folders import is_kohya_layout
from ldm_train.data.sources.table_hints import has_box_labels, suggest_table
from ldm_train.util.text import as_word

FOLDERS = ("captions", "texts", "txt", "prompts")
TABLES = 20  # tables that are looked into
SEARCHED = 10_000  # pictures without captions that are looked for elsewhere
PROGRAMS = re.compile(
    r"(?<![^\W\d_])(img|dscn?|dscf|pxl|mvimg|images?|photos?|pictures?|frames?|screen ?shots?|whatsapp|comfyui|apple|canon|"
    r"nikon|dcim|camera|scan|untitled|unnamed|downloads?|grid|temp|new|folder|p|at|"
    r"outputs?|inputs?|results?|data|datasets?|train|valid?|test)(?![^\W\d_])",
    re.IGNORECASE,
)
HASH = re.compile(r"(?=\w*\d)(?=\w*[^\W\d_])[0-9A-Za-z]{8,}|[0-9a-fA-F]{8,}")
NUMBERED_WORD = re.compile(r"[^\W\d_]+\d+")
DIGEST = 16  # characters of a hash that names a file by its content
FILES = 10_000  # in a folder next to the source's that are looked at


def suggest_caption_places(
    root: Path, tree: FolderTree, missing: Sequence[str], lonely: Sequence[str], *, used: Collection[Path], template: bool
) -> Iterator[str]:
    """Yield a message for each place that may have the captions of pictures.

    Args:
        root: the folder.
        missing: paths of pictures without captions.
        lonely: paths of caption files that belong to no picture.
        used: folders and tables that captions are read from already.
        template: whether captions are read from the paths or from another place already.
    """
    in_use = {os.path.abspath(place) for place in used}
    folders = Counter(
        {
            folder: len(files)
            for folder, files in _match_folders(missing[:SEARCHED], lonely).items()
            if os.path.abspath(root / folder) not in in_use and not has_box_labels([root / file for file in files])
        }
    )
    for folder, count in folders.most_common(1):
        yield (
            f"{count:,} pictures without a caption have a file of their name in {format_name(folder)}; "
            f"{as_word('source.captions_from', root / folder)} reads it"
        )
    candidates = [*tree.tables, *(file for file in lonely if file.lower().endswith(".json"))][:TABLES]
    unused = [file for file in candidates if not folders and os.path.abspath(root / file) not in in_use]
    tables = [(file, words) for file in unused if (words := suggest_table(root / file, root, missing))]
    for table, words in tables[:3]:
        yield f"if {format_name(table)} has the captions, {words} reads it"
    siblings = [
        place
        for place in ([] if folders or tables else _list_siblings(root))
        if os.path.abspath(place) not in in_use and _names_pictures(place, root, missing)
    ]
    for place in siblings[:3]:
        yield f"if {place.name} next to the folder has the captions, {as_word('source.captions_from', place)} reads it"
    if template:
        return
    if is_kohya_layout(tree.pictures):
        folder = posixpath.dirname(tree.pictures[0])
        yield f"folders such as {format_name(folder)} give repeats and a caption as kohya's do; source=kohya reads them"
    elif not folders and not tables and not siblings:
        files = [read_words(posixpath.splitext(posixpath.basename(key))[0]) for key in missing[:SEARCHED]]
        named = [text for text in files if is_caption_name(text)]
        within = [read_words(posixpath.basename(folder)) for key in missing[:SEARCHED] if (folder := posixpath.dirname(key))]
        if 2 * len(named) > len(files):
            yield f"if the file names are the captions ({named[0]!r}), {as_word('source.template', '{file}')} reads them"
        elif within and 2 * sum(map(is_caption_name, within)) > len(within):
            suggested = as_word("source.template", "a photo of a {folder}")
            yield f"if the folders' names say what the pictures are, {suggested} uses them"


def is_caption_name(name: str) -> bool:
    """Return whether a file's or folder's name has words, and is not a number, a hash or a name by a camera or program."""
    plain = name.replace("_", " ")
    if NUMBERED_WORD.fullmatch(plain) or any(len(match[0]) >= DIGEST for match in HASH.finditer(plain)):
        return False
    words = PROGRAMS.sub(" ", HASH.sub(" ", plain))
    letters, digits = (sum(map(test, words)) for test in (str.isalpha, str.isdigit))
    return letters > digits and re.search(r"[^\W\d_]{3}", words) is not None


def _names_pictures(place: Path, root: Path, missing: Sequence[str]) -> bool:
    """Return whether a folder has caption files, or a table has rows, of the pictures' names."""
    if not place.is_dir():
        return suggest_table(place, root, missing) is not None
    stems = {posixpath.basename(_stem(key)) for key in missing}
    every = (Path(folder, name) for folder, _, names in os.walk(place) for name in names)
    files = [file for file in islice(every, FILES) if posixpath.basename(_stem(file.as_posix())) in stems]
    texts = [file for file in files if file.suffix.lower() in SIDECAR_SUFFIXES]
    return bool(texts) and not has_box_labels(texts)


def _match_folders(missing: Sequence[str], lonely: Sequence[str]) -> dict[str, list[str]]:
    """Return folders with files named as pictures elsewhere, such as `captions` for `images`, and these files."""
    by_name = {posixpath.basename(_stem(file)): file for file in lonely}
    found: dict[str, list[str]] = defaultdict(list)
    for key in missing:
        file = by_name.get(posixpath.basename(_stem(key)))
        if file is not None:
            here, there = _stem(key).split("/"), _stem(file).split("/")
            while here and there and here[-1] == there[-1]:
                here.pop()
                there.pop()
            found["/".join(file.split("/")[: len(there)]) or "."].append(file)
    return found


def _list_siblings(root: Path) -> Iterator[Path]:
    """Yield folders and tables of captions next to the source's folder, as `captions` is to `images`."""
    parent = Path(os.path.abspath(root)).parent
    yield from (parent / name for name in FOLDERS if (parent / name).is_dir() and parent / name != root)
    yield from sorted(parent.glob("annotations/*caption*.json"))


def _stem(path: str) -> str:
    return posixpath.splitext(compose_accents(path))[0]
