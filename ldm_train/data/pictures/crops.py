"""Decide how pictures are resized and cropped, from their size and digest.

Sizes and shapes are (height, width) in pixels: a size is that of the upright picture, a shape that of a view.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from ldm_train.util.safe_json import Json

Size = tuple[int, int]  # (height, width)


def format_size(size: Size) -> str:
    """Return a size as people write it, "WIDTHxHEIGHT"."""
    return f"{size[1]}x{size[0]}"


@dataclass(frozen=True)
class View:
    """Resize to (resized_height, resized_width), crop (height, width) at (top, left), then mirror; all in pixels.

    A negative `top` or `left` is the width of a background before the picture.
    """

    resized_height: int
    resized_width: int
    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False


class Crop(ABC):
    """The views of a picture: resized to just cover a shape, which is then cropped at the centre or where `place` says.

    Args:
        shapes: all shapes that a view can have.
        positions: number of crops of a picture.
        mirrored: whether each view is followed by its mirror image.

    Attributes:
        views: number of views of every picture; all have the same shape.
    """

    def __init__(self, shapes: Iterable[Size], *, positions: int = 1, mirrored: bool = False) -> None:
        self.shapes = sorted(shapes)
        self.positions = positions
        self.mirrored = mirrored
        self.views = 2 * positions if mirrored else positions

    @property
    @abstractmethod
    def identity(self) -> dict[str, Json]:
        """Everything that decides the views of a picture: the option's name in `conf/crop`, and all settings."""

    @abstractmethod
    def shape(self, size: Size) -> Size:
        """Return the shape that a picture of this size is cropped to."""

    def place(self, spare: int, digest: str, number: int) -> int:
        """Return how many of an axis' `spare` pixels are cropped before view `number`; the others are cropped after it."""
        return spare // 2

    def __call__(self, size: Size, digest: str) -> list[View]:
        """Return the views of a picture; `digest` is the hexadecimal SHA-256 of its bytes."""
        shape, resized = self.shape(size), self.resize(size)
        views = []
        for number in range(self.positions):
            top, left = (self._placed(r - s, digest, number) for r, s in zip(resized, shape, strict=True))
            view = View(*resized, top, left, *shape)
            views += [view, replace(view, mirrored=True)] if self.mirrored else [view]
        return views

    def _placed(self, spare: int, digest: str, number: int) -> int:
        place = self.place(spare, digest, number)
        if not isinstance(place, int) or not min(0, spare) <= place <= max(0, spare):
            raise ValueError(
                f"{type(self).__name__}.place must return a whole number from 0 to spare={spare}, not {place!r}"
            )
        return place

    def resize(self, size: Size) -> Size:
        """Return the size that a picture of this size is resized to."""
        return cover_shape(size, self.shape(size))

    def lost(self, size: Size) -> float:
        """Return the share of the resized picture's area that is cropped away."""
        resized = self.resize(size)
        return 1 - math.prod(map(min, resized, self.shape(size))) / math.prod(resized)

    def scale(self, size: Size) -> float:
        """Return the factor by which the picture is resized; above 1 it is enlarged."""
        return compute_enlargement(size, self.shape(size))


class CentreCrop(Crop):
    """Resize the shorter side to `image_size` and crop the square in the centre."""

    def __init__(self, image_size: int, *, mirrored: bool = False) -> None:
        require_whole("image_size", image_size)
        super().__init__([(image_size, image_size)], mirrored=mirrored)

    @property
    def identity(self) -> dict[str, Json]:
        return {"kind": "centre", "image_size": self.shapes[0][0], "mirrored": self.mirrored}

    def shape(self, size: Size) -> Size:
        return self.shapes[0]


class FitCrop(Crop):
    """Resize the longer side to `image_size`, and put the whole picture in the centre of a square of the background."""

    def __init__(self, image_size: int, *, mirrored: bool = False) -> None:
        require_whole("image_size", image_size)
        super().__init__([(image_size, image_size)], mirrored=mirrored)

    @property
    def identity(self) -> dict[str, Json]:
        return {"kind": "fit", "image_size": self.shapes[0][0], "mirrored": self.mirrored}

    def shape(self, size: Size) -> Size:
        return self.shapes[0]

    def resize(self, size: Size) -> Size:
        side, longer = self.shapes[0][0], max(size)
        height, width = (max(1, (2 * one * side + longer) // (2 * longer)) for one in size)
        return height, width

    def scale(self, size: Size) -> float:
        return self.shapes[0][0] / max(size)


class RandomCrop(Crop):
    """Resize the shorter side to `image_size` and crop squares at `views` places, which the digest decides.

    Args:
        keep_scale: crop the picture as it is; only one that is smaller than the square is resized.
    """

    def __init__(self, image_size: int, *, views: int = 4, mirrored: bool = False, keep_scale: bool = False) -> None:
        require_whole("image_size", image_size)
        require_whole("crop.views", views)
        self.keep_scale = keep_scale
        super().__init__([(image_size, image_size)], positions=views, mirrored=mirrored)

    @property
    def identity(self) -> dict[str, Json]:
        size = self.shapes[0][0]
        kept: dict[str, Json] = {"keep_scale": True} if self.keep_scale else {}
        return {"kind": "random", "image_size": size, "views": self.positions, "mirrored": self.mirrored, **kept}

    def shape(self, size: Size) -> Size:
        return self.shapes[0]

    def resize(self, size: Size) -> Size:
        return size if self.keep_scale and min(size) >= self.shapes[0][0] else super().resize(size)

    def scale(self, size: Size) -> float:
        return 1.0 if self.resize(size) == size else super().scale(size)

    def place(self, spare: int, digest: str, number: int) -> int:
        drawn = int.from_bytes(sha256(f"{digest} {number}".encode()).digest()[:8])
        return drawn * (spare + 1) >> 64


class Buckets(Crop):
    """Aspect-ratio buckets (NovelAI 2022; SDXL, Podell et al. 2023, arXiv 2307.01952): shapes of about the same area.

    A picture gets the largest area that does not enlarge it, else the smallest, and of that area's shapes the one with the
    nearest logarithm of height over width.

    Args:
        image_size: the side of the square whose area is used if `areas` is None; a multiple of `step`.
        areas: sides of squares with the areas, multiples of `step`: [512, 768] for 512² and 768² pixels.
        step: all sides are multiples of it, pixels.
        max_aspect: the largest ratio of the longer to the shorter side.
    """

    def __init__(
        self,
        image_size: int,
        *,
        areas: Sequence[int] | None = None,
        step: int = 64,
        max_aspect: float = 2.0,
        mirrored: bool = False,
    ) -> None:
        require_whole("crop.step", step)
        if not 1 <= max_aspect < math.inf:
            raise ValueError(
                f"crop.max_aspect={max_aspect} must be a finite number of at least 1: longest side over shortest"
            )
        sides = [image_size] if areas is None else list(areas)
        if not sides:
            raise ValueError(
                "crop.areas=[] names no area; list sides such as [512, 768], or write null for only that of image_size"
            )
        for name, side in [("image_size", image_size), *(("crop.areas", side) for side in sides)]:
            require_whole(name, side, multiple_of=step)
        self.areas, self.step, self.max_aspect = sorted(set(sides), reverse=True), step, float(max_aspect)
        self._by_area = [list_bucket_shapes(side, step=step, max_aspect=max_aspect) for side in self.areas]
        super().__init__(set().union(*self._by_area), mirrored=mirrored)

    @property
    def identity(self) -> dict[str, Json]:
        settings = {"step": self.step, "max_aspect": self.max_aspect, "mirrored": self.mirrored}
        return {"kind": "buckets", "areas": [*self.areas], **settings}

    def shape(self, size: Size) -> Size:
        for shapes in self._by_area:
            nearest = min(shapes, key=lambda shape: compare_aspects(size, shape))
            if compute_enlargement(size, nearest) <= 1:
                break
        return nearest


def list_bucket_shapes(side: int, *, step: int, max_aspect: float) -> set[Size]:
    """Return all shapes in multiples of `step` with at most side² pixels of which a side cannot grow, and these turned."""
    shapes = set()
    for length in range(step, min(int(side * max_aspect), side * side // step) + 1, step):
        other = side * side // length // step * step
        if max(length, other) <= max_aspect * min(length, other):
            shapes |= {(length, other), (other, length)}
    return shapes


def compare_aspects(size: Size, shape: Size) -> tuple[float, int, float]:
    """Return a sort key: the difference of the aspects, then larger areas first, then squarer shapes."""
    aspect, shape_aspect = (math.log(height) - math.log(width) for height, width in (size, shape))
    return abs(aspect - shape_aspect), -math.prod(shape), abs(shape_aspect)


def compute_enlargement(size: Size, shape: Size) -> float:
    """Return the factor by which a size must grow to cover the shape."""
    return max(shape[0] / size[0], shape[1] / size[1])


def cover_shape(size: Size, shape: Size) -> Size:
    """Return the smallest size of the same aspect that covers the shape; halves are rounded up."""
    (height, width), (shape_height, shape_width) = size, shape
    if shape_height * width >= shape_width * height:
        return shape_height, (2 * width * shape_height + height) // (2 * height)
    return (2 * height * shape_width + width) // (2 * width), shape_width


def centre_view(size: Size, shape: Size) -> View:
    """Return the view that resizes a picture to cover the shape and crops its centre."""
    (height, width), (shape_height, shape_width) = cover_shape(size, shape), shape
    return View(height, width, (height - shape_height) // 2, (width - shape_width) // 2, *shape)


def require_whole(name: str, value: int, *, multiple_of: int = 1) -> None:
    """Raise ValueError unless a setting is positive, and a multiple of `multiple_of`."""
    if value <= 0 or value % multiple_of:
        kind = "positive" if multiple_of == 1 else f"a positive multiple of crop.step={multiple_of}"
        raise ValueError(f"{name}={value} must be {kind}")
