"""The folder that `sample` draws into: pictures.json lists its files, and the next command replaces these and no others."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from torch import Tensor

from ldm_train.data.pictures.images import read_png_texts, save_png
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.util.files import atomic_write, is_temporary, make_folder
from ldm_train.util.locks import hold_lock
from ldm_train.util.ownership import LOCK, PICTURES, check_folder, read_mark
from ldm_train.util.safe_json import Json
from ldm_train.util.text import list_names

DRAWN = re.compile(r"\d{4,}(-attention)?\.png|(grid|strip|plot(-\d+)?)\.png|prompts\.txt")
PROMPTS = "prompts.txt"
INPUTS = ("picture", "mask", "prompts")


class PictureFolder:
    """A folder that is written from the first picture on, and held until the end of the block.

    Args:
        config: a command's settings, of which `out` names the folder.

    Raises:
        ValueError: what is there was not drawn by `sample`, or an input of the command is in it; nothing was changed.
    """

    def __init__(self, config: SampleSettings) -> None:
        self.path = Path(config.out)
        self._names: list[str] = []
        self._held = ExitStack()
        self._begun = False
        check_folder(self.path, PICTURES, setting="out", given=str(config.out))
        for name in INPUTS:
            if (
                isinstance(getattr(config, name), str)
                and self.path.resolve() in Path(getattr(config, name)).resolve().parents
            ):
                raise ValueError(
                    f"{name}={getattr(config, name)} is in out={config.out}, whose files are replaced; choose another out"
                )
        self._refuse_foreign()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def expect(self, names: Sequence[str]) -> None:
        """Set the names of all pictures that will be saved."""
        self._names = [*names, PROMPTS]

    def save(self, picture: Tensor, name: str, texts: Mapping[str, str]) -> None:
        """Write a uint8 picture (3, H, W); before the first one, the pictures of an older command are removed."""
        assert name in self._names
        if not self._begun:
            self._begin()
        save_png(picture, self.path / name, texts)

    def finish(self, prompts: Sequence[str]) -> None:
        """Write the prompt of each numbered picture, and list all files with their checksums."""
        atomic_write(self.path / PROMPTS, "".join(f"{prompt}\n" for prompt in prompts))
        files = {name: {"sha256": _digest(self.path / name)} for name in self._names}
        for name, prompt in zip(self._names, prompts, strict=False):  # the numbered ones come first
            files[name]["prompt"] = prompt
        self._write(files)

    def _begin(self) -> None:
        make_folder(self.path)
        busy = f"out={self.path}: another process is drawing into this folder; wait for it, or choose another out"
        self._held.enter_context(hold_lock(self.path / LOCK, busy=busy, remove=True))
        self._refuse_foreign()
        older = {name: entry for name, entry in read_listing(self.path).items() if is_as_listed(self.path / name, entry)}
        # Until the end the older files are listed with the new ones, so the next command knows both after a kill.
        self._write({**older, **dict.fromkeys(self._names)})
        for path in [*(self.path / name for name in older), *filter(is_temporary, self.path.iterdir())]:
            path.unlink(missing_ok=True)
        self._begun = True

    def _write(self, files: Mapping[str, object]) -> None:
        atomic_write(self.path / PICTURES.mark, json.dumps({"command": "ldm-train sample", "files": files}, indent=2) + "\n")

    def _refuse_foreign(self) -> None:
        if not self.path.is_dir():
            return
        listed = read_listing(self.path)
        foreign = sorted(
            path.name
            for path in self.path.iterdir()
            if DRAWN.fullmatch(path.name) and not (path.name in listed and is_as_listed(path, listed[path.name]))
        )
        if foreign:
            raise ValueError(
                f"out={self.path} holds {list_names(foreign)}, which `sample` has not drawn, or which changed since. "
                "Nothing was changed; choose another out, or move them away"
            )


def read_listing(folder: Path) -> dict[str, Json]:
    """Return the files that `sample` drew into a folder, None for those of an unfinished command; {} without the mark."""
    files = (read_mark(folder, PICTURES) or {}).get("files")
    return {name: files[name] for name in files if DRAWN.fullmatch(name)} if isinstance(files, dict) else {}


def is_as_listed(path: Path, entry: object) -> bool:
    """Return whether a file is the one that was drawn, or missing: by its checksum, or by its text if it has none yet."""
    if path.is_symlink():
        return False
    if not path.is_file():
        return not path.exists()
    if isinstance(entry, dict):
        return entry.get("sha256") == _digest(path)
    return path.name == PROMPTS or "ldm_train" in read_png_texts(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
