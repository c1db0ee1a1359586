"""Conditioning and noise between two, for pictures on the way from one prompt to another."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ldm_train.types import Conditioning


def interpolate_conditioning(
    first: Conditioning, second: Conditioning, weights: Tensor, *, blend: Literal["slerp", "lerp"] = "slerp"
) -> Conditioning:
    """Return conditioning between two that have the same parts, at weights (B,) from 0 to 1.

    The mask keeps every token that either of them has.
    """

    def part(a: Tensor | None, b: Tensor | None, mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor | None:
        return None if a is None or b is None else mix(a, b, weights.to(a.dtype))

    embeddings = {"slerp": slerp, "lerp": lerp}[blend]
    return Conditioning(
        tokens=part(first.tokens, second.tokens, embeddings),
        mask=None if first.mask is None or second.mask is None else first.mask | second.mask,
        vector=part(first.vector, second.vector, embeddings),
        maps=part(first.maps, second.maps, lerp),
        control=part(first.control, second.control, lerp),
        controlled=None if first.controlled is None or second.controlled is None else first.controlled & second.controlled,
    )


def lerp(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Return points on the line between tensors (B, ...), exactly the tensors themselves at weights (B,) of 0 and 1."""
    return torch.lerp(first, second, weights.view(-1, *[1] * (first.ndim - 1)))


def slerp(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Return points on the arc between vectors (B, ..., D), at weights (B,) from 0 to 1.

    Spherical interpolation (Shoemake 1985, "Animating rotation with quaternion curves"). Between two draws of noise the
    result is noise of the same standard deviation. Nearly parallel or opposite vectors, whose arc is undefined, are
    interpolated on a line.
    """
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=-1).unsqueeze(-1)
    angle = cosine.clamp(-1, 1).acos()
    share = weights.view(-1, *[1] * (first.ndim - 1))
    arc = (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / torch.sin(angle)
    return torch.where(cosine.abs() > 0.9995, lerp(first, second, weights), arc)
