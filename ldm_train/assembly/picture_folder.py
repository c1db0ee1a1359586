"""The folder that `sample` draws into: pictures.json lists its files, and the next command replaces these and no others."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Self

from torch import Tensor

from ldm_train.data.pictures.images import encode_png, read_png_texts, to_bytes
from ldm_train.data.pictures.pixel_values import PixelFormat
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.util.files import atomic_write, digest_file, is_temporary, make_folder
from ldm_train.util.locks import hold_lock
from ldm_train.util.ownership import LOCK, PICTURES, check_folder, read_mark
from ldm_train.util.safe_json import Json
from ldm_train.util.text import list_names

DRAWN = re.compile(r"\d{4,}(-attention)?\.png|\d{4,}\.npy|(grid|strip|plot(-\d+)?)\.png|prompts\.txt")
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
        inputs = {name: getattr(config, name) for name in INPUTS} | {
            f"map.{name}": file for name, file in config.map.items()
        }
        for name, file in inputs.items():
            if isinstance(file, str) and self.path.resolve() in Path(file).resolve().parents:
                raise ValueError(f"{name}={file} is in out={config.out}, whose files are replaced; choose another out")
        refuse_foreign(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def expect(self, names: Sequence[str]) -> None:
        """Set the names of all pictures that will be saved."""
        self._names = [*names, PROMPTS]

    def save(self, picture: Tensor, name: str, texts: Mapping[str, str]) -> None:
        """Write a uint8 picture (3, H, W); before the first one, the pictures of an older command are removed."""
        self._write(encode_png(picture, texts), name)

    def save_drawn(self, image: Tensor, name: str, texts: Mapping[str, str], pixels: PixelFormat | None) -> None:
        """Write an image (C, H, W) in [-1, 1] in the format of the pictures that were trained on, 8-bit RGB if None."""
        self._write(encode_drawn(image, texts, pixels), name)

    def _write(self, content: bytes, name: str) -> None:
        assert name in self._names
        if not self._begun:
            self._begin()
        atomic_write(self.path / name, content)

    def finish(self, prompts: Sequence[str]) -> None:
        """Write the prompt of each numbered picture, and list all files with their checksums."""
        atomic_write(self.path / PROMPTS, "".join(f"{prompt}\n" for prompt in prompts))
        files: dict[str, dict[str, Json]] = {name: {"sha256": digest_file(self.path / name)} for name in self._names}
        for name, prompt in zip(self._names, prompts, strict=False):  # the numbered ones come first
            files[name]["prompt"] = prompt
        write_listing(self.path, files)

    def _begin(self) -> None:
        make_folder(self.path)
        self._held.enter_context(hold_pictures(self.path))
        refuse_foreign(self.path)
        older = {name: entry for name, entry in read_listing(self.path).items() if is_as_listed(self.path / name, entry)}
        # Until the end the older files are listed with the new ones, so the next command knows both after a kill.
        write_listing(self.path, {**older, **dict.fromkeys(self._names)})
        for path in [*(self.path / name for name in older), *filter(is_temporary, self.path.iterdir())]:
            path.unlink(missing_ok=True)
        self._begun = True


def encode_drawn(image: Tensor, texts: Mapping[str, str], pixels: PixelFormat | None) -> bytes:
    """Return the bytes of a file with an image (C, H, W) in [-1, 1]: in this format, a PNG with 8-bit RGB if None."""
    if pixels is None:
        return encode_png(to_bytes(image), texts)
    return pixels.write(image.permute(1, 2, 0).cpu().numpy(), texts)


def hold_pictures(folder: Path) -> AbstractContextManager[None]:
    """Keep other commands from drawing into a folder; raises ValueError if one does."""
    busy = f"out={folder}: another process is drawing into this folder; wait for it, or choose another out"
    return hold_lock(folder / LOCK, busy=busy, remove=True)


def refuse_foreign(folder: Path) -> None:
    """Raise if a folder holds files with the names of drawn ones that were not drawn, or changed since.

    Raises:
        ValueError: it does; nothing was changed.
    """
    if not folder.is_dir():
        return
    listed = read_listing(folder)
    foreign = sorted(
        path.name
        for path in folder.iterdir()
        if DRAWN.fullmatch(path.name) and not (path.name in listed and is_as_listed(path, listed[path.name]))
    )
    if foreign:
        raise ValueError(
            f"out={folder} holds {list_names(foreign)}, which `sample` has not drawn, or which changed since. "
            "Nothing was changed; choose another out, or move them away"
        )


def write_listing(folder: Path, files: Mapping[str, object]) -> None:
    """Write which files were drawn into a folder; None stands for one that may be unfinished."""
    atomic_write(folder / PICTURES.mark, json.dumps({"command": "ldm-train sample", "files": files}, indent=2) + "\n")


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
        return entry.get("sha256") == digest_file(path)
    # An array has no texts; there was none when the command that listed it began.
    return path.name == PROMPTS or path.suffix == ".npy" or "ldm_train" in read_png_texts(path)
