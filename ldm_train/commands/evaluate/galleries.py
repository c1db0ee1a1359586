"""Open folders of pictures for an evaluation: the files in order, and their captions if all are known."""

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
    """The pictures of a folder, and one caption of each; no captions unless every picture has one."""

    files: list[Path]
    captions: list[str]


def open_gallery(setting: str, path: str) -> Gallery:
    """Return the pictures of a folder; of a folder drawn by `ldm-train`, only its numbered and listed pictures.

    Raises:
        ValueError: there is no such folder, or no picture in it.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{setting}={path} is not a folder; give {setting}=DIR with pictures in it")
    files = [root / name for name in walk_folder(root).pictures]
    if listing := read_listing(root):
        files = [root / name for name in listing if NUMBERED.fullmatch(name) and (root / name).is_file()]
        if None in listing.values():
            print(f"{setting}={path} has only {len(files)} pictures, because `ldm-train sample` was interrupted")
    numbered = [file for file in files if NUMBERED.fullmatch(file.name)]
    files = numbered if numbered and read_stored_prompts(numbered[:1]) else files
    if not files:
        raise ValueError(f"{setting}={path} contains no picture; give {setting}=DIR with pictures in it")
    return Gallery(files, read_stored_prompts(files) or read_source_captions(root, files))


def read_stored_prompts(files: Sequence[Path]) -> list[str]:
    """Return the prompts in the files' own metadata, or nothing unless all files have one."""
    prompts = []
    for file in files:
        try:
            metadata = parse_json(read_png_texts(file)["ldm_train"])
        except (KeyError, ValueError):
            return []
        if not isinstance(metadata, dict) or "prompt" not in metadata:
            return []
        prompts.append(str(metadata["prompt"]))
    return prompts


def read_source_captions(root: Path, files: Sequence[Path]) -> list[str]:
    """Return the first caption of each file, from the folder's metadata or text files; nothing unless all have one."""
    try:
        captions = {root / str(item.key): item.captions for item in Folder(str(root))}
    except ValueError:  # two places give different captions, so they are not known
        return []
    firsts = [captions.get(file, ())[:1] for file in files]
    return [caption for first in firsts for caption in first] if all(firsts) else []
