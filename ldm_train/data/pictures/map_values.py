"""Decode maps of pictures, such as depth, edges or segmentation, at their full depth; torch is not needed.

A map may have another size than its picture, of the same aspect ratio. Values are float32 in [-1, 1], from black to white.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ldm_train.data.pictures.arrays import is_array, read_array, read_array_size, to_signed_values
from ldm_train.data.pictures.colour import background_colour
from ldm_train.data.pictures.crops import Size, format_size
from ldm_train.data.pictures.decoding import read_upright_size
from ldm_train.data.pictures.deep_pixels import read_pixels
from ldm_train.data.pictures.headers import MAX_PIXELS
from ldm_train.data.sources.items import EncodedPicture, Item
from ldm_train.util.inputs import describe_error
from ldm_train.util.safe_json import Json
from ldm_train.util.text import first_line

MAPS_VERSION = 1  # of the code that turns a map's bytes into stored values; part of the names of cached rows
MASKS_VERSION = 1  # of the code that draws masks and applies them
REDUCED_VERSION = 1  # of the code that makes small pictures of large ones
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # of red, green and blue: ITU-R 601-2, as Pillow has it


class MapError(ValueError):
    """A map of a picture cannot be used; the message names the map."""


def describe_map_error(name: str, error: BaseException) -> str:
    """Return why decoding a map failed, on one line, for reports."""
    return f"its map {name} does not decode: {first_line(error) if str(error) else describe_error(error)}"


@dataclass(frozen=True)
class TowerSpec:
    """A vision tower of open_clip.

    Args:
        digest: what tells its weights from others.
    """

    model: str
    weights: str
    digest: str


@dataclass(frozen=True)
class MapSpec:
    """What a map is.

    Args:
        name: as the source has it.
        channels: of a map that is stored as it is: 1, 3, or those of an array.
        nearest: whether values are never blended, as labels of a segmentation.
        encoded: whether the autoencoder encodes it, as a picture with 3 channels.
        normalized: whether the least and the largest value of each view become -1 and 1, as of depth without a unit.
        masks: 0 for a map in a file; else the number of random masks that are drawn for each view, each of them stored with
            the picture that it leaves, encoded.
        reduced: 0 for a map in a file; else by how much the picture itself is scaled down, as `reduce_views` does it.
        tower: what embeds it, as a picture with 3 channels; None for a map that is stored as it is or encoded.
        own: whether it is the picture itself, and not in a file of its own.
        control: whether a ControlNet gets it, so that it is stored at the picture's size.
    """

    name: str
    channels: int = 1
    nearest: bool = False
    encoded: bool = False
    normalized: bool = False
    masks: int = 0
    reduced: int = 0
    tower: TowerSpec | None = None
    own: bool = False
    control: bool = False

    @property
    def in_file(self) -> bool:
        """Whether the source brings it; what is made of the picture itself is in no file."""
        return not self.masks and not self.reduced and not self.own

    @property
    def is_picture(self) -> bool:
        """Whether it is rendered as a picture, with 3 channels at the picture's size."""
        return self.encoded or self.tower is not None

    def pixels_each(self, factor: int) -> int:
        """Return the pixels along each side for each position that is rendered; `factor` is that of the latents."""
        return 1 if self.is_picture or self.control else self.reduced or factor

    @property
    def num_read(self) -> int:
        """The number of channels that are read of its file, or that a mask and the picture that it leaves have."""
        if self.masks:
            return 4 * self.masks
        return 3 if self.is_picture or self.reduced else self.channels

    def count_stored(self, latent_channels: int, factor: int) -> int:
        """Return how many values are stored for each position of the latents of an autoencoder, rounded up."""
        if self.masks:
            return (1 + latent_channels) * self.masks
        if self.reduced:
            return -(-self.num_read * factor**2 // self.reduced**2)
        if self.tower is not None:
            return 0  # at each position: it has one embedding as a whole
        if self.control:
            return self.channels * factor**2
        return latent_channels if self.encoded else self.channels

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that stored values depend on, apart from the file."""
        if self.masks:
            return {"masks": self.masks, "version": MASKS_VERSION}
        if self.reduced:
            return {"reduced": self.reduced, "version": REDUCED_VERSION}
        if self.tower is not None:
            return {"own": self.own, "model": self.tower.model, "weights": self.tower.digest}
        normalized = {"normalized": True} if self.normalized else {}
        control = {"control": True} if self.control else {}
        return {"channels": self.num_read, "nearest": self.nearest, "encoded": self.encoded, **normalized, **control}


def read_map_size(content: bytes, *, max_pixels: int = MAX_PIXELS) -> Size:
    """Return the (height, width) of an upright map, from its header.

    Raises:
        DECODE_ERRORS: it is no picture and no array, or is refused because of its header.
    """
    if is_array(content):
        return read_array_size(content, max_pixels=max_pixels)
    return read_upright_size(content, max_pixels=max_pixels)


def find_map(item: Item, name: str) -> EncodedPicture:
    """Return a map of a picture.

    Raises:
        MapError: it has none of this name.
    """
    if name not in item.maps:
        raise MapError(f"it has no map {name}; source.maps={{{name}: …}} says where maps are")
    return item.maps[name]


def check_aspect(name: str, size: Size, picture: Size) -> None:
    """Raise MapError if a map has another aspect ratio than its picture, by more than a pixel of the smaller one."""
    small, large = sorted((size, picture))
    scaled = (large[0] * small[1] / large[1], large[1] * small[0] / large[0])
    if min(abs(scaled[0] - small[0]), abs(scaled[1] - small[1])) > 1:
        raise MapError(
            f"its map {name} has {format_size(size)} pixels, another aspect ratio than the picture's {format_size(picture)}"
        )


def read_map(content: bytes, spec: MapSpec, *, background: str = "white", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return an upright map, (H, W, C), with the number of channels that are read of it.

    Args:
        background: what shows through a transparent map whose alpha channel is not read.

    Raises:
        DECODE_ERRORS: it is damaged, larger than `max_pixels`, or has values of unknown range or other channels.
    """
    if is_array(content):
        values = to_signed_values(read_array(content, max_pixels=max_pixels))
    else:
        pixels, has_alpha = read_pixels(content, max_pixels=max_pixels, labels=spec.nearest and spec.num_read == 1)
        values = to_signed_values(pixels)
        if has_alpha and values.shape[2] != spec.num_read:
            values = remove_alpha(values, background)
    return _fit_channels(values, spec)


def remove_alpha(values: np.ndarray, background: str) -> np.ndarray:
    """Return grey or RGB values on a background, of values with alpha."""
    colour = np.array(background_colour(background), dtype=np.float32) / 127.5 - 1
    ground = colour if values.shape[2] == 4 else (colour @ GREY)[None]
    alpha = (values[..., -1:] + 1) / 2
    return np.where(alpha == 1, values[..., :-1], ground + (values[..., :-1] - ground) * alpha)


def _fit_channels(values: np.ndarray, spec: MapSpec) -> np.ndarray:
    """Return values (H, W, C) with the channels that are read: grey repeated as RGB, or RGB as grey.

    Raises:
        ValueError: they have another number of channels, or are colours instead of labels.
    """
    there, wanted = values.shape[2], spec.num_read
    if there == wanted:
        return values
    if (there, wanted) == (1, 3):
        return values.repeat(3, axis=2)
    if (there, wanted) == (3, 1):
        if (values == values[..., :1]).all():
            return values[..., :1]
        if not spec.nearest:
            return (values @ GREY)[..., None]
        raise ValueError("it has colours, and numbers of labels are expected; save it with one channel, or with a palette")
    raise ValueError(f"its number of channels is {there}, and the condition {spec.name} has channels={wanted}")


def describe_unread_map(name: str, error: BaseException) -> str:
    """Return why the bytes of a map cannot be had; of a file that is not there also what its path is relative to."""
    if isinstance(error, FileNotFoundError) and isinstance(error.filename, str):
        return (
            f"its map {name} is missing: there is no {os.path.normpath(error.filename)} "
            f"(source.maps.{name} is seen from the source, not from the current folder)"
        )
    return f"its map {name} cannot be read: {str(error) or describe_error(error)}"


def refuse_two_pictures(small: Sequence[str], holes: Sequence[str]) -> None:
    """Raise if `picture=FILE` would have to be both a small picture and another one.

    Args:
        small, holes: names of the conditions that enlarge a picture, and that fill holes.

    Raises:
        ValueError: it names the conditions.
    """
    if small and len(small) + len(holes) > 1:
        raise ValueError(
            f"conditions: {' and '.join([*small, *holes])} each take another picture=FILE, a small one or one with a hole, "
            "and only one can be given; leave all but one of them out"
        )


def describe_specs(specs: Iterable[MapSpec]) -> dict[str, Json]:
    """Return what maps are by their names, in plain values."""
    return {spec.name: spec.identity for spec in sorted(specs, key=lambda spec: spec.name)}
