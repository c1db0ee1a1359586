"""Folders of pictures as an evaluation takes them: the files in order, and the captions where they are known."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ldm_train.assembly.picture_folder import read_listing
from ldm_train.data.pictures.images import read_png_texts
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.folder_walk import walk_folder
from ldm_train.util.safe_json import parse_json

NUMBERED = re.compile(r"\d+\.png")


@dataclass(frozen=True)
class Gallery:
    """Pictures of a folder, and one caption of each, or none where not every one has one."""

    files: list[Path]
    captions: list[str]


def open_gallery(setting: str, path: str) -> Gallery:
    """The pictures in a folder; of one that this project drew only those with a number, and only those that were listed.

    Raises:
        ValueError: no such folder, or no picture in it.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{setting}={path} is not a folder; give one with pictures")
    files = [root / name for name in walk_folder(root).pictures]
    if listing := read_listing(root):
        files = [root / name for name in listing if NUMBERED.fullmatch(name) and (root / name).is_file()]
        if None in listing.values():
            print(f"{setting}={path}: `ldm-train sample` was interrupted there after {len(files)} pictures")
    numbered = [file for file in files if NUMBERED.fullmatch(file.name)]
    files = numbered if numbered and told_prompts(numbered[:1]) else files
    if not files:
        raise ValueError(f"{setting}={path} holds no picture")
    return Gallery(files, told_prompts(files) or captions_beside(root, files))


def told_prompts(files: Sequence[Path]) -> list[str]:
    """The prompts that the files themselves tell; nothing unless all do."""
    found = []
    for file in files:
        try:
            told = parse_json(read_png_texts(file)["ldm_train"])
        except (KeyError, ValueError):
            return []
        if not isinstance(told, dict) or "prompt" not in told:
            return []
        found.append(str(told["prompt"]))
    return found


def captions_beside(root: Path, files: Sequence[Path]) -> list[str]:
    """The first caption of each, from metadata or from a file beside it; nothing unless all have one."""
    try:
        told = {root / str(item.key): item.captions for item in Folder(str(root))}
    except ValueError:  # captions in two places that differ: then they are not known
        return []
    captions = [told.get(file, ())[:1] for file in files]
    return [caption for one in captions for caption in one] if all(captions) else []
