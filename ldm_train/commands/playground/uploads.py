"""Pictures that browsers send: checked by the decoder of training pictures, and kept under names that nobody can guess."""

import re
import secrets
import threading
from pathlib import Path

import numpy as np
import torch

from ldm_train.data.pictures.decoding import DECODE_ERRORS, decode_picture, read_upright_size
from ldm_train.data.pictures.headers import require_format
from ldm_train.data.pictures.images import encode_png
from ldm_train.util.files import atomic_write, make_folder
from ldm_train.util.inputs import describe_error, read_input

LARGEST_FILE = 32 * 2**20  # bytes
LARGEST_PICTURE = 64_000_000  # pixels
LONGEST_SIDE = 768  # pixels of a preview
NAME = re.compile(r"[\w-]{22}\.[a-z0-9]{2,5}", re.ASCII)


class Uploads:
    """A folder of files that browsers sent.

    Args:
        folder: made with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rendering = threading.Lock()  # a whole picture takes much memory

    def keep(self, content: bytes) -> str:
        """Keep a picture, and return the name by which it is asked for.

        Raises:
            ValueError: it is too large, or no picture that can be read; nothing was kept.
        """
        if len(content) > LARGEST_FILE:
            raise ValueError(f"the file has {len(content):,} bytes; at most {LARGEST_FILE:,} are taken")
        try:
            read_upright_size(content, max_pixels=LARGEST_PICTURE)
            suffix = require_format(content).suffixes[:1] or (".bin",)
        except DECODE_ERRORS as error:
            reason = describe_error(error).replace("max_pixels=", "").replace(" or raise the setting", "")
            raise ValueError(f"this file cannot be used as a picture: {reason}") from error
        name = f"{secrets.token_urlsafe(16)}.{suffix[0].removeprefix('.').lower()}"
        make_folder(self.folder)
        atomic_write(self.folder / name, content)
        return name

    def find(self, name: str) -> Path:
        """Return the file of a name.

        Raises:
            ValueError: there is none.
        """
        path = self.folder / name
        if NAME.fullmatch(name) is None or not path.is_file():
            raise ValueError(f"there is no upload {name!r}; send the file again")
        return path

    def render(self, name: str) -> bytes:
        """Return a kept picture as a PNG file for the page, whole, and no larger than a screen.

        Raises:
            ValueError: there is none, or it cannot be decoded.
        """
        with self._rendering:
            try:
                picture = decode_picture(read_input(self.find(name), limit=LARGEST_FILE), max_pixels=LARGEST_PICTURE)
            except DECODE_ERRORS as error:
                raise ValueError(f"this file cannot be used as a picture: {describe_error(error)}") from error
            picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        return encode_png(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
