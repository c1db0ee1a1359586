"""A folder to which pictures are added one by one, numbered on from those that it has; nothing there is replaced."""

from contextlib import ExitStack
from pathlib import Path
from typing import Self

from torch import Tensor

from ldm_train.assembly.picture_folder import (
    PROMPTS,
    encode_drawn,
    hold_pictures,
    is_as_listed,
    read_listing,
    refuse_foreign,
    write_listing,
)
from ldm_train.data.pictures.images import encode_png
from ldm_train.data.pictures.pixel_values import PixelFormat
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

    def add(
        self,
        image: Tensor,
        texts: dict[str, str],
        prompt: str,
        *,
        pixels: PixelFormat | None = None,
        attention: Tensor | None = None,
    ) -> Path:
        """Write an image (C, H, W) in [-1, 1] with its PNG texts, and return its path.

        Args:
            pixels: the format in which it is written; None for 8-bit RGB.
            attention: a picture of the attention to the words of the prompt, to write next to it.
        """
        files = self._begin() if self._files is None else self._files
        taken = [int(name[:-4]) for name in files if name[:-4].isdecimal()]  # .png and .npy
        stem = f"{max(taken, default=-1) + 1:04d}"
        name = f"{stem}.{'png' if pixels is None else pixels.ending}"
        contents = {name: encode_drawn(image, texts, pixels)}
        if attention is not None:
            contents[f"{stem}-attention.png"] = encode_png(attention, texts)
        write_listing(self.path, {**files, **dict.fromkeys([*contents, PROMPTS])})  # before them, in case of a kill
        for one, content in contents.items():
            atomic_write(self.path / one, content)
            files[one] = {"sha256": digest_file(self.path / one)}
        files[name] = {"sha256": digest_file(self.path / name), "prompt": prompt}
        drawn = sorted((int(one[:-4]), entry) for one, entry in files.items() if one[:-4].isdecimal())
        prompts = {number: entry.get("prompt", "") if isinstance(entry, dict) else "" for number, entry in drawn}
        lines = [str(prompts.get(number, "")) for number in range(max(prompts) + 1)]
        atomic_write(self.path / PROMPTS, "".join(f"{line}\n" for line in lines))
        files[PROMPTS] = {"sha256": digest_file(self.path / PROMPTS)}
        write_listing(self.path, files)
        self.count += 1
        return self.path / name

    def _begin(self) -> dict[str, Json]:
        """Make and hold the folder, and return what is in it."""
        make_folder(self.path)
        self._held.enter_context(hold_pictures(self.path))
        refuse_foreign(self.path)
        listed = read_listing(self.path)
        self._files = {name: entry for name, entry in listed.items() if is_as_listed(self.path / name, entry)}
        return self._files
