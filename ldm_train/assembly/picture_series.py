"""A folder to which pictures are added one by one, numbered on from those that it has; nothing there is replaced."""

from contextlib import ExitStack
from pathlib import Path
from typing import Self

from torch import Tensor

from ldm_train.assembly.picture_folder import (
    PROMPTS,
    hold_pictures,
    is_as_listed,
    read_listing,
    refuse_foreign,
    write_listing,
)
from ldm_train.data.pictures.images import save_png
from ldm_train.util.files import atomic_write, digest_file, make_folder
from ldm_train.util.ownership import PICTURES, check_folder
from ldm_train.util.safe_json import Json


class PictureSeries:
    """A folder of `ldm-train sample` that is written from the first picture on, and held until the end of the block.

    Raises:
        ValueError: what is there was not drawn by `sample`; nothing was changed.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder)
        self.count = 0  # pictures that were added
        self._files: dict[str, Json] | None = None  # what was drawn into the folder; None until the first picture
        self._held = ExitStack()
        check_folder(self.path, PICTURES, setting="out", given=folder)
        refuse_foreign(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def add(self, picture: Tensor, texts: dict[str, str], prompt: str, *, attention: Tensor | None = None) -> Path:
        """Write a uint8 picture (3, H, W) with its PNG texts, and return its path.

        Args:
            attention: a picture of the attention to the words of the prompt, to write next to it.
        """
        files = self._begin() if self._files is None else self._files
        taken = [int(name[: len(name) - len(".png")]) for name in files if name[:-4].isdecimal()]
        stem = f"{max(taken, default=-1) + 1:04d}"
        pictures = {f"{stem}.png": picture} | ({} if attention is None else {f"{stem}-attention.png": attention})
        write_listing(self.path, {**files, **dict.fromkeys([*pictures, PROMPTS])})  # before them, in case of a kill
        for name, image in pictures.items():
            save_png(image, self.path / name, texts)
            files[name] = {"sha256": digest_file(self.path / name)}
        files[f"{stem}.png"] = {"sha256": digest_file(self.path / f"{stem}.png"), "prompt": prompt}
        drawn = sorted((int(name[:-4]), entry) for name, entry in files.items() if name[:-4].isdecimal())
        prompts = {number: entry.get("prompt", "") if isinstance(entry, dict) else "" for number, entry in drawn}
        lines = [str(prompts.get(number, "")) for number in range(max(prompts) + 1)]
        atomic_write(self.path / PROMPTS, "".join(f"{line}\n" for line in lines))
        files[PROMPTS] = {"sha256": digest_file(self.path / PROMPTS)}
        write_listing(self.path, files)
        self.count += 1
        return self.path / f"{stem}.png"

    def _begin(self) -> dict[str, Json]:
        """Make and hold the folder, and return what is in it."""
        make_folder(self.path)
        self._held.enter_context(hold_pictures(self.path))
        refuse_foreign(self.path)
        listed = read_listing(self.path)
        self._files = {name: entry for name, entry in listed.items() if is_as_listed(self.path / name, entry)}
        return self._files
