"""Decide whether a command may write into a folder or over a file: only where nothing of a user's can be lost.

A folder may be written to if it is missing, empty, or carries the mark of its kind: a JSON file with certain keys. A file
may be written over if `ldm-train` wrote it. Everything else is refused, and what is refused is left as it was.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ldm_train.util.files import is_temporary
from ldm_train.util.safe_json import Json, read_object
from ldm_train.util.text import list_names

LOCK = ".lock"
# What file managers and network drives put into any folder without a question; nobody keeps anything in them.
SYSTEM_FILES = re.compile(
    r"\.DS_Store|\._.+|\.localized|\.directory|thumbs\.db|ehthumbs(_vista)?\.db|desktop\.ini|icon\r|\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+",
    re.IGNORECASE,
)
# Folders of file systems, network drives and file managers: snapshots, thumbnails, what was deleted.
SYSTEM_FOLDERS = re.compile(
    r"lost\+found|@eadir|\.@__thumb|@recycle|#recycle|#snapshot|\$recycle\.bin|system volume information|__macosx|"
    r"\.snapshots?|\.zfs|\.trash(es|-\d+)|\.spotlight-v100|\.fseventsd|\.temporaryitems|\.appledouble",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that a command writes.

    Args:
        noun: what a message calls it, such as "a latent cache".
        mark: the JSON file that every such folder has.
        keys: names that this file holds at its top level.
        unfinished: names that may stand in a folder before it has its mark.
    """

    noun: str
    mark: str
    keys: frozenset[str]
    unfinished: frozenset[str] = frozenset({LOCK})


RUN = FolderKind("a run directory", "run.json", frozenset({"content", "starts"}))
CACHE = FolderKind("a latent cache", "manifest.json", frozenset({"format", "encoding", "shards", "files"}))
EXPORT = FolderKind("an export", "export.json", frozenset({"files"}))
PICTURES = FolderKind("a folder of drawn pictures", "pictures.json", frozenset({"files", "command"}))
PLAYGROUND = FolderKind("a playground's folder", "playground.json", frozenset({"playground"}))
PROJECTOR = FolderKind("a folder for the embedding projector", "projector.json", frozenset({"files", "words"}))


def read_mark(folder: Path, kind: FolderKind) -> dict[str, Json] | None:
    """Return what the mark of a folder holds; None if there is no such file, or one that cannot be read or lacks a key."""
    try:
        content = read_object(folder / kind.mark)
    except (OSError, ValueError):
        return None
    return content if kind.keys <= content.keys() else None


def carries_mark(folder: Path, kind: FolderKind) -> bool:
    """Return whether a folder was written by the command that writes this kind."""
    return read_mark(folder, kind) is not None


def check_folder(folder: Path, kind: FolderKind, *, setting: str, given: str | None = None) -> None:
    """Raise unless a command may write into this folder: it is missing, empty, or of this kind.

    Args:
        setting: the name of the setting that names the folder, such as "run_dir".
        given: the value of the setting, where it is not the folder's path.

    Raises:
        ValueError: it is something else, and nothing was changed.
    """
    value = str(folder) if given is None else given
    check_given(value, setting=setting)
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise ValueError(
            f"{setting}={value} is a file or a broken link, not a folder; nothing was changed. Choose another {setting}"
        )
    if foreign := foreign_names(folder, kind):
        raise ValueError(
            f"{setting}={value} holds {list_names(foreign)} and is not {kind.noun}: it has no {kind.mark} of ldm-train. "
            f"Nothing was changed; choose another {setting}, or empty this folder yourself"
        )


def check_given(value: str, *, setting: str) -> None:
    """Raise if a path to write to is what the shell should have replaced: nothing, or ~.

    Raises:
        ValueError: it is.
    """
    if not value.strip():
        raise ValueError(f"{setting} is empty; give it a name (is a variable of the shell unset?)")
    if Path(value).parts[:1] == ("~",):
        home = Path.home().joinpath(*Path(value).parts[1:])
        raise ValueError(f"{setting}={value} begins with ~, which your shell did not replace; write {setting}={home}")


def is_system_file(path: Path) -> bool:
    """Return whether a file manager or a network drive put a file or folder there, such as .DS_Store or @eaDir."""
    if path.is_dir():
        return is_system_folder(path.name)
    return SYSTEM_FILES.fullmatch(path.name) is not None


def is_system_folder(name: str) -> bool:
    """Return whether folders of this name are made by the system, and hold nothing that anybody put there."""
    return SYSTEM_FOLDERS.fullmatch(name) is not None


def foreign_names(folder: Path, kind: FolderKind) -> list[str]:
    """Return what a folder without the kind's mark holds that `ldm-train` did not begin to write; nothing with the mark."""
    if carries_mark(folder, kind):
        return []
    paths = (path for path in folder.iterdir() if not is_temporary(path) and not is_system_file(path))
    return sorted(path.name for path in paths if path.name not in kind.unfinished)


def check_file(path: Path, is_ours: Callable[[Path], bool], *, setting: str) -> None:
    """Raise unless a command may write over this file: it is missing, or `ldm-train` wrote it.

    Args:
        is_ours: returns whether its content is that of such a file; it is called for regular files only, and may raise
            ValueError or OSError for "no".

    Raises:
        ValueError: it is something else, and nothing was changed.
    """
    if path == Path():
        raise ValueError(
            f"{setting} is empty or the current folder; give it a file's name (is a variable of the shell unset?)"
        )
    check_given(str(path), setting=setting)
    if path.is_dir():
        raise ValueError(f"{setting}={path} is a folder, and a file is written there; choose a name in it")
    if not path.exists():
        return
    try:
        ours = path.is_file() and is_ours(path)
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise ValueError(
            f"{setting}={path} exists and was not written by this command. Nothing was changed; "
            f"choose another {setting}, or move that file away"
        )
