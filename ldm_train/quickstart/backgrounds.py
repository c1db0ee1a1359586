"""The colours of backgrounds. Images are float, (B, 3, H, W) in [-1, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm_train.metrics.evaluation import Comparison


class BackgroundAccuracy:
    """Compute whether the corners of a picture have the colour of the background that its caption asks for.

    Applies if the source names the `background` of every picture, and there are several.
    """

    def __call__(self, comparison: Comparison) -> dict[str, Tensor]:
        names = [fields.get("background") for fields in comparison.fields]
        known = [name for name in names if name is not None]
        if len(known) < len(names) or len(set(known)) < 2:
            return {}
        return {"background_accuracy": has_background(comparison.drawn, known, comparison.truth, known)}


def has_background(images: Tensor, requested: Sequence[str], truth: Tensor, backgrounds: Sequence[str]) -> Tensor:
    """Return whether the corners of each image are nearest to the colour of the requested background, (B,) bool.

    Args:
        requested: the name of the background that each image should have, B.
        truth: true pictures, (N, 3, H, W); the mean colour of their corners is the colour of their background.
        backgrounds: the name of the background of each true picture, N.
    """
    names = sorted(set(backgrounds))
    colours = torch.stack([measure_corner_colours(truth[[n == name for n in backgrounds]]).mean(0) for name in names])
    nearest_names = torch.cdist(measure_corner_colours(images), colours).argmin(1)
    return nearest_names == torch.tensor([names.index(name) for name in requested])


def measure_corner_colours(images: Tensor, *, side: int = 4) -> Tensor:
    """Return the mean colour of the four corners, squares of `side` pixels, (B, 3)."""
    corners = [images[..., rows, columns] for rows in _ends(side) for columns in _ends(side)]
    return torch.stack([corner.mean((2, 3)) for corner in corners]).mean(0)


def _ends(side: int) -> tuple[slice, slice]:
    return slice(None, side), slice(-side, None)
