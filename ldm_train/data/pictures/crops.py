"""Which part of a picture is trained on: plans of resizing and cropping, computed from the picture's size and digest alone.

Sizes and shapes are (height, width) in pixels; a size is that of the upright picture.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from ldm_train.util.safe_json import Json

Size = tuple[int, int]


@dataclass(frozen=True)
class View:
    """Resize to (resized_height, resized_width), cut out (height, width) from (top, left), then mirror if asked; pixels."""

    resized_height: int
    resized_width: int
    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False


class Crop(ABC):
    """Views of a picture: resized until it just covers a shape, which is cut from the centre or wherever `place` says.

    Args:
        shapes: all that a view can have.
        positions: how many places are cut out.
        mirrored: whether each view is followed by its mirror image.

    `shapes` is sorted; `views` is the number of views of every picture, all of one shape.
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
        """The shape that a picture of this size is cut to."""

    def place(self, spare: int, digest: str, number: int) -> int:
        """How many of an axis' `spare` pixels are cut before view `number`; the others are cut behind it."""
        return spare // 2

    def __call__(self, size: Size, digest: str) -> list[View]:
        """The views of a picture; `digest` is the hexadecimal SHA-256 of its bytes."""
        shape = self.shape(size)
        resized = covering(size, shape)
        views = []
        for number in range(self.positions):
            top, left = (self.place(r - s, digest, number) for r, s in zip(resized, shape, strict=True))
            view = View(*resized, top, left, *shape)
            views += [view, replace(view, mirrored=True)] if self.mirrored else [view]
        return views

    def lost(self, size: Size) -> float:
        """Share of the resized picture's area that a view cuts away."""
        return 1 - math.prod(self.shape(size)) / math.prod(covering(size, self.shape(size)))

    def scale(self, size: Size) -> float:
        """Factor by which the picture is enlarged; below 1, shrunk."""
        return enlargement(size, self.shape(size))


class CentreCrop(Crop):
    """The shorter side resized to `image_size`, the square in the centre cut out."""

    def __init__(self, image_size: int, *, mirrored: bool = False) -> None:
        require_whole("image_size", image_size)
        super().__init__([(image_size, image_size)], mirrored=mirrored)

    @property
    def identity(self) -> dict[str, Json]:
        return {"kind": "centre", "image_size": self.shapes[0][0], "mirrored": self.mirrored}

    def shape(self, size: Size) -> Size:
        return self.shapes[0]


class RandomCrop(Crop):
    """The shorter side resized to `image_size`, squares cut out at `views` places that the digest decides."""

    def __init__(self, image_size: int, *, views: int = 4, mirrored: bool = False) -> None:
        require_whole("image_size", image_size)
        require_whole("crop.views", views)
        super().__init__([(image_size, image_size)], positions=views, mirrored=mirrored)

    @property
    def identity(self) -> dict[str, Json]:
        size = self.shapes[0][0]
        return {"kind": "random", "image_size": size, "views": self.positions, "mirrored": self.mirrored}

    def shape(self, size: Size) -> Size:
        return self.shapes[0]

    def place(self, spare: int, digest: str, number: int) -> int:
        drawn = int.from_bytes(sha256(f"{digest} {number}".encode()).digest()[:8])
        return drawn * (spare + 1) >> 64


class Buckets(Crop):
    """Shapes of about one area, of which each picture gets the one nearest to its aspect (NovelAI, 2022; SDXL, 2307.01952).

    A picture goes to the largest area that does not enlarge it, else to the smallest; there to the shape of the nearest
    logarithm of height over width.

    Args:
        image_size: the side of the square whose area is used if `areas` is None; a multiple of `step`.
        areas: sides of such squares, multiples of `step`: [512, 768] for 512² and 768² pixels.
        step: what all sides are multiples of.
        max_aspect: longest side over shortest, at most.
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
                "crop.areas=[] names no area; list sides such as [512, 768], or write null for image_size's alone"
            )
        for name, side in [("image_size", image_size), *(("crop.areas", side) for side in sides)]:
            require_whole(name, side, multiple_of=step)
        self.areas, self.step, self.max_aspect = sorted(set(sides), reverse=True), step, float(max_aspect)
        self._by_area = [near_shapes(side, step=step, max_aspect=max_aspect) for side in self.areas]
        super().__init__(set().union(*self._by_area), mirrored=mirrored)

    @property
    def identity(self) -> dict[str, Json]:
        settings = {"step": self.step, "max_aspect": self.max_aspect, "mirrored": self.mirrored}
        return {"kind": "buckets", "areas": [*self.areas], **settings}

    def shape(self, size: Size) -> Size:
        for shapes in self._by_area:
            nearest = min(shapes, key=lambda shape: distance(size, shape))
            if enlargement(size, nearest) <= 1:
                break
        return nearest


def near_shapes(side: int, *, step: int, max_aspect: float) -> set[Size]:
    """All shapes in multiples of `step` of at most side² pixels, one side of which cannot grow; and the same turned."""
    shapes = set()
    for length in range(step, min(int(side * max_aspect), side * side // step) + 1, step):
        other = side * side // length // step * step
        if max(length, other) <= max_aspect * min(length, other):
            shapes |= {(length, other), (other, length)}
    return shapes


def distance(size: Size, shape: Size) -> tuple[float, int, float]:
    """How far the aspects are apart; of equal ones the larger area is nearer, then the more square."""
    aspect, shape_aspect = (math.log(height) - math.log(width) for height, width in (size, shape))
    return abs(aspect - shape_aspect), -math.prod(shape), abs(shape_aspect)


def enlargement(size: Size, shape: Size) -> float:
    """By how much the size must grow to cover the shape."""
    return max(shape[0] / size[0], shape[1] / size[1])


def covering(size: Size, shape: Size) -> Size:
    """The size in its own aspect, one side the shape's and the other no less; halves rounded up."""
    (height, width), (shape_height, shape_width) = size, shape
    if shape_height * width >= shape_width * height:
        return shape_height, (2 * width * shape_height + height) // (2 * height)
    return (2 * height * shape_width + width) // (2 * width), shape_width


def centred(size: Size, shape: Size) -> View:
    """The picture resized to cover the shape, which is cut from its centre."""
    (height, width), (shape_height, shape_width) = covering(size, shape), shape
    return View(height, width, (height - shape_height) // 2, (width - shape_width) // 2, *shape)


def require_whole(name: str, value: int, *, multiple_of: int = 1) -> None:
    if value <= 0 or value % multiple_of:
        kind = "positive" if multiple_of == 1 else f"a positive multiple of crop.step={multiple_of}"
        raise ValueError(f"{name}={value} must be {kind}")
