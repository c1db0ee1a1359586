"""List the files in a folder at every depth, through links to folders, without walking in circles."""

import os
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ldm_train.data.pictures.formats import PICTURE_SUFFIXES, UNREAD_SUFFIXES
from ldm_train.data.sources.items import Item, format_name
from ldm_train.util.ownership import CACHE, RUN, carries_mark, is_system_folder

SIDECAR_SUFFIXES = {".txt", ".caption", ".json"}
METADATA_NAMES = {"metadata.jsonl", "metadata.csv", "metadata.parquet"}
ARCHIVE_SUFFIXES = (".zip", ".rar", ".7z", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ARRAY_SUFFIX = ".npy"
TABLE_SUFFIXES = {".jsonl", ".csv", ".tsv", ".parquet"}


@dataclass
class FolderTree:
    """The content of a folder by sorted paths relative to it.

    Args:
        tables: other files that may be tables of captions.
        unread: pictures of kinds that are not read.
        archives: packed folders, which are not read.
        own: latent caches and run directories below the folder, which are not read.
        others: the number of all other files by suffix, tables and archives included.
        unlisted: the paths of these.
        arrays: arrays (.npy) among them, which are the pictures if there are no others.
    """

    pictures: list[str] = field(default_factory=list)
    sidecars: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    problems: list[Item] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    unlisted: set[str] = field(default_factory=set)
    arrays: list[str] = field(default_factory=list)

    def set_apart(self, pictures: list[str], maps: set[str]) -> None:
        """Keep only these of the pictures, and do not report files that are maps as unread."""
        self.pictures = pictures
        self.unread = [key for key in self.unread if key not in maps]
        self.others.subtract(os.path.splitext(key)[1].lower() for key in self.unlisted & maps)
        self.others = +self.others

    def take_arrays(self) -> None:
        """Make the arrays the pictures, if there are no others."""
        if not self.pictures and not self.unread:
            self.pictures, self.arrays = self.arrays, []
            self.unlisted -= {*self.pictures}
            self.others.pop(ARRAY_SUFFIX, None)

    def notes(self) -> Iterator[str]:
        if self.hidden:
            yield f"hidden files and folders left out: {len(self.hidden):,} ({_list_few(self.hidden)})"
        if self.own:
            yield f"latent caches and run directories left out: {len(self.own):,} ({_list_few(self.own)})"
        if self.others:
            yield f"not read as pictures: {format_suffix_counts(self.others)}"
        yield from self.archive_notes()

    def archive_notes(self) -> list[str]:
        """Return a message if there are archives."""
        return [f"archives are not read, unpack them first: {_list_few(self.archives)}"] if self.archives else []

    def add_problem(self, key: str, problem: str) -> None:
        self.problems.append(Item(key, None, (), format_name(key), problem=problem))

    def add_file(self, key: str, name: str, *, lost: bool = False, sidecars: Collection[str] = SIDECAR_SUFFIXES) -> None:
        """Add a file by its name; `lost` if it is a broken link, which reading a picture or caption will report."""
        suffix = os.path.splitext(name)[1].lower()
        if suffix in PICTURE_SUFFIXES:
            self.pictures.append(key)
        elif name.lower() in METADATA_NAMES:
            self.metadata.append(key)
        elif suffix in sidecars:
            self.sidecars.append(key)
        elif lost:
            self.add_problem(key, "a broken link")
        elif suffix in UNREAD_SUFFIXES:
            self.unread.append(key)
        else:
            self.others[suffix] += 1
            self.unlisted.add(key)
            if suffix == ARRAY_SUFFIX:
                self.arrays.append(key)
            if suffix in TABLE_SUFFIXES:
                self.tables.append(key)
            if is_archive(name):
                self.archives.append(key)


def _list_few(names: Sequence[str]) -> str:
    return ", ".join(format_name(name) for name in names[:3]) + (", …" if len(names) > 3 else "")


def is_archive(name: str) -> bool:
    """Return whether a file of this name is a packed folder."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def format_suffix_counts(suffixes: Counter[str]) -> str:
    """Return the five most frequent suffixes with their numbers: "1,204 .txt, 3 .json"."""
    bare = "file without an extension", "files without an extension"
    common = [f"{count:,} {format_name(suffix) or bare[count != 1]}" for suffix, count in suffixes.most_common(5)]
    return ", ".join(common) + (", …" if len(suffixes) > 5 else "")


def walk_folder(root: Path, *, sidecars: Collection[str] = SIDECAR_SUFFIXES) -> FolderTree:
    """Return the content of a folder. A folder that cannot be read, or is reached again through a link, becomes a problem.

    Files with a suffix in `sidecars` may have captions.

    Links are followed last, so that a folder which is also linked to is read at its own path.
    """
    tree = FolderTree()
    seen = {_identity(parent): "a folder that contains the source" for parent in root.resolve().parents}
    folders, links = [""], deque[str]()
    while folders or links:
        key = folders.pop() if folders else links.popleft()
        try:
            identity = _identity(root / key)
            if identity in seen:
                tree.add_problem(key, f"leads back to {seen[identity]}, which is not read again from here")
                continue
            seen[identity] = f"the folder {format_name(key) or 'of the source'}"
            with os.scandir(root / key) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
            if key and _is_own(root / key, {entry.name for entry in ordered}):
                tree.own.append(key)
                continue
        except OSError as error:
            tree.add_problem(key or ".", f"the folder cannot be read: {error.strerror}")
            continue
        for entry in ordered:
            _add(tree, f"{key}/{entry.name}" if key else entry.name, entry, folders, links, sidecars)
    tree.take_arrays()
    for paths in (tree.pictures, tree.sidecars, tree.metadata, tree.tables, tree.unread, tree.archives):
        paths.sort()
    tree.problems.sort(key=lambda item: item.key)
    return tree


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_own(folder: Path, names: Collection[str]) -> bool:
    """Return whether a folder is a latent cache or a run directory, which hold pictures that show what was done."""
    return any(kind.mark in names and carries_mark(folder, kind) for kind in (CACHE, RUN))


def _add(
    tree: FolderTree, key: str, entry: os.DirEntry[str], folders: list[str], links: deque[str], sidecars: Collection[str]
) -> None:
    try:
        is_folder, is_file = entry.is_dir(), entry.is_file()
    except OSError:  # such as a link to itself
        is_folder = is_file = False
    if entry.name.startswith(".") or (is_folder and is_system_folder(entry.name)):
        tree.hidden.append(key)
    elif is_folder and entry.is_symlink():
        links.append(key)
    elif is_folder:
        folders.append(key)
    elif is_file or entry.is_symlink():
        tree.add_file(key, entry.name, lost=not is_file, sidecars=sidecars)
    else:
        tree.add_problem(key, "neither a file nor a folder")
