"""Pictures whose values are read as they are stored: grey, 16 bits, any number of channels, and arrays. No torch is needed.

The values of a file's type, or of a range, become float32 in [-1, 1], and are written back as whole numbers or floats.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm_train.data.pictures.arrays import is_array, read_array, read_array_size, to_signed_values
from ldm_train.data.pictures.colour import background_colour
from ldm_train.data.pictures.decoding import read_upright_size
from ldm_train.data.pictures.deep_pixels import read_pixels
from ldm_train.data.pictures.headers import MAX_PIXELS
from ldm_train.data.pictures.map_values import GREY, remove_alpha
from ldm_train.util.safe_json import Json

PIXELS_VERSION = 1  # of the code that turns bytes into values; part of the names of cached rows
NO_TEXTS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class PixelFormat:
    """What the values of every picture are.

    Args:
        channels: of every picture; one with grey values is also read as three equal channels, and three equal ones as grey.
        bits: of a value, at most: 8 and 16 are whole numbers, 32 also floats and larger whole numbers.
        low, high: the values that become -1 and 1. None for 0 and the largest value of a file's type; floats then stay as
            they are, and must be in [-1, 1].
    """

    channels: int
    bits: int = 8
    low: float | None = None
    high: float | None = None

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that the values of a picture depend on, apart from its bytes."""
        return {**vars(self), "version": PIXELS_VERSION}

    @property
    def ending(self) -> str:
        """The ending of the names of files in which pictures are written: "png", or "npy" if PNG does not hold them."""
        return "png" if (self.channels, self.bits) in ((1, 8), (3, 8), (1, 16)) else "npy"

    def read(self, content: bytes, *, background: str = "white", max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Return the upright values of a picture, (H, W, C) float32 in [-1, 1].

        Args:
            background: what shows through a transparent picture whose alpha channel is none of the channels.

        Raises:
            DECODE_ERRORS: it is damaged, larger than `max_pixels`, or has other channels, more bits or values out of range.
        """
        if is_array(content):
            values, has_alpha = read_array(content, max_pixels=max_pixels, any_numbers=self.low is not None), False
        else:
            values, has_alpha = read_pixels(content, max_pixels=max_pixels, labels=False)
        self._check_bits(values.dtype)
        if has_alpha and values.shape[2] != self.channels:
            return self._fit(remove_alpha(to_signed_values(values), background))
        return self._fit(to_signed_values(values) if self.low is None else self._scale(values))

    def _check_bits(self, kind: np.dtype) -> None:
        """Raise ValueError if a type has more bits than the pictures are said to have."""
        bits = min(32, {"b": 8, "f": 32}.get(kind.kind, 8 * kind.itemsize))
        if bits > self.bits:
            raise ValueError(
                f"its values are of the type {kind.name}, and pixels.bits={self.bits}: set pixels.bits={bits}, or save it "
                f"with {self.bits} bits"
            )

    def _scale(self, values: np.ndarray) -> np.ndarray:
        """Return values of which `low` and `high` are -1 and 1.

        Raises:
            ValueError: values are outside of them, or not finite.
        """
        assert self.low is not None
        assert self.high is not None
        least, most = values.min(), values.max()
        if not self.low <= least <= most <= self.high:  # also of NaN
            raise ValueError(f"its values are from {least:g} to {most:g}, outside pixels.range=[{self.low:g},{self.high:g}]")
        return ((values.astype(np.float64) - self.low) * (2 / (self.high - self.low)) - 1).astype(np.float32)

    def _fit(self, values: np.ndarray) -> np.ndarray:
        """Return values (H, W, C) with the channels of the format; only what loses nothing is converted.

        Raises:
            ValueError: they have others.
        """
        there = values.shape[2]
        if there == self.channels:
            return values
        if (there, self.channels) == (1, 3):
            return values.repeat(3, axis=2)
        if (there, self.channels) == (3, 1) and (values == values[..., :1]).all():
            return values[..., :1]
        colour = " of different values" if (there, self.channels) == (3, 1) else ""
        raise ValueError(
            f"its number of channels is {there}{colour}, and pixels.channels={self.channels}: convert it, or leave it out"
        )

    def background(self, name: str) -> np.ndarray:
        """Return the values of a background, (C,): its colour, or its grey for one channel; -1 for other numbers."""
        colour = np.array(background_colour(name), dtype=np.float32) / 127.5 - 1
        if self.channels == 3:
            return colour
        return (colour @ GREY)[None] if self.channels == 1 else np.full(self.channels, -1, dtype=np.float32)

    def to_stored(self, values: np.ndarray) -> np.ndarray:
        """Return values (H, W, C) in [-1, 1], clipped, as files have them: rounded to `bits`, or float32 in the range."""
        largest = 2**self.bits - 1
        bounds = (-1, 1) if self.bits == 32 else (0, largest)
        low, high = bounds if self.low is None or self.high is None else (self.low, self.high)
        scaled = (values.astype(np.float64).clip(-1, 1) + 1) / 2 * (high - low) + low
        if self.bits == 32:
            return values.astype(np.float32).clip(-1, 1) if self.low is None else scaled.astype(np.float32)
        return scaled.round().clip(0, largest).astype(np.uint8 if self.bits == 8 else np.uint16)

    def write(self, values: np.ndarray, texts: Mapping[str, str] = NO_TEXTS) -> bytes:
        """Return the bytes of a file with values (H, W, C) in [-1, 1], a PNG with texts or an array as `ending` says."""
        stored, file, info = self.to_stored(values), io.BytesIO(), PngInfo()
        for keyword, text in texts.items():
            info.add_text(keyword, text)
        if self.ending == "npy":
            np.save(file, stored[..., 0] if self.channels == 1 else stored, allow_pickle=False)
        else:
            Image.fromarray(stored[..., 0] if self.channels == 1 else stored).save(file, format="PNG", pnginfo=info)
        return file.getvalue()


def read_picture_size(content: bytes, pixels: PixelFormat | None, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return the (height, width) of an upright picture, from its header.

    Raises:
        DECODE_ERRORS: it is no picture, also an array if values are not read as they are stored.
    """
    if pixels is not None and is_array(content):
        return read_array_size(content, max_pixels=max_pixels, any_numbers=pixels.low is not None)
    return read_upright_size(content, max_pixels=max_pixels)


def draw_values(values: np.ndarray) -> Image.Image:
    """Return values (H, W, C) in [-1, 1] as an RGB picture: the first three channels, or the first one as grey."""
    shown = values[..., :3] if values.shape[2] > 2 else values[..., :1].repeat(3, axis=2)
    return Image.fromarray(((shown + 1) * 127.5).round().astype(np.uint8))
