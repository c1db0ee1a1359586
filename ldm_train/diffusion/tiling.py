"""Compute large latents in overlapping tiles, and blend what is computed of each so that no border shows.

Tiles of side s start at most 3/4 s apart. What they give is averaged, each with the weight sin^2 of the place in the tile,
which is smooth, and near 0 at the tile's border. The network's outputs are blended so at each step (Jiménez 2023, arXiv
2302.02412, section 3, with Gaussian weights), so neighbouring tiles agree on what they draw.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ldm_train.types import Conditioning, Network

STRIDE = 0.75  # from one tile to the next, at most, as a share of its side
AT_ONCE = 16  # tiles of one forward pass, of all pictures together
Place = tuple[slice, slice]


def place_tiles(height: int, width: int, side: int) -> list[Place]:
    """Return the rows and columns of the tiles, at even distances; all along a side that is not longer than a tile."""
    rows, columns = (_spread(length, min(side, length)) for length in (height, width))
    return [(row, column) for row in rows for column in columns]


def _spread(length: int, side: int) -> list[slice]:
    count = 1 + math.ceil((length - side) / max(1, int(STRIDE * side)))
    starts = [round(number * (length - side) / max(1, count - 1)) for number in range(count)]
    return [slice(start, start + side) for start in starts]


def cut_tiles(x: Tensor, places: Sequence[Place], *, scale: int = 1) -> Tensor:
    """Return tiles of x (B, C, scale H, scale W), (N B, C, scale h, scale w), all of the first place first."""
    scaled = ([slice(scale * part.start, scale * part.stop) for part in place] for place in places)
    return torch.cat([x[:, :, rows, columns] for rows, columns in scaled])


def blend_tiles(
    compute: Callable[[Sequence[Place]], Tensor], size: tuple[int, int], side: int, *, scale: int = 1, at_once: int = 1
) -> Tensor:
    """Return what is computed of tiles of latents of this (height, width), blended: (B, C, scale H, scale W).

    Args:
        compute: returns it for some places, (N B, C, scale h, scale w), in the order of `cut_tiles`.
        side: of a tile, in latents.
        at_once: places for which it is computed together.
    """
    places = place_tiles(*size, side)
    total = weights = torch.zeros(())
    for first in range(0, len(places), at_once):
        some = places[first : first + at_once]
        for (rows, columns), found in zip(some, compute(some).chunk(len(some)), strict=True):
            if total.ndim == 0:
                total = found.new_zeros(*found.shape[:2], *(scale * length for length in size))
                weights = torch.zeros_like(total[:1, :1])
            window = (_window(found.shape[2])[:, None] * _window(found.shape[3])).to(found)
            down, along = (slice(scale * part.start, scale * part.stop) for part in (rows, columns))
            total[:, :, down, along] += window * found
            weights[:, :, down, along] += window
    return total / weights


def decode_tiles(decode: Callable[[Tensor], Tensor], latents: Tensor, *, side: int | None, scale: int) -> Tensor:
    """Return images (B, 3, scale H, scale W) of latents (B, C, H, W), decoded in tiles, or at once if `side` is None."""
    if side is None:
        return decode(latents)
    height, width = latents.shape[2:]
    return blend_tiles(lambda places: decode(cut_tiles(latents, places)), (height, width), side, scale=scale)


def _window(side: int) -> Tensor:
    return torch.sin(math.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side).square()


class TiledNetwork(nn.Module):
    """A network that computes noisy latents in tiles and blends its outputs.

    Args:
        side: of a tile, in latents.
    """

    def __init__(self, network: Network, *, side: int) -> None:
        super().__init__()
        self.whole = network  # of any size: it gets a tile at a time
        self.side = side

    def forward(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the output (B, C, H, W) for noisy latents (B, C, H, W), timesteps (B,) and conditioning."""

        def compute(places: Sequence[Place]) -> Tensor:
            def repeat(rows: Tensor | None) -> Tensor | None:
                return None if rows is None else torch.cat([rows] * len(places))

            def cut(maps: Tensor | None) -> Tensor | None:
                return None if maps is None else cut_tiles(maps, places, scale=maps.shape[2] // height)

            rows = (conditioning.tokens, conditioning.mask, conditioning.vector, conditioning.controlled)
            tokens, mask, vector, controlled = (repeat(part) for part in rows)
            maps, control = cut(conditioning.maps), cut(conditioning.control)
            tile = Conditioning(tokens, mask, vector, maps, control, controlled)
            return self.whole(cut_tiles(x_t, places), torch.cat([t] * len(places)), tile)

        height, width = x_t.shape[2:]
        return blend_tiles(compute, (height, width), self.side, at_once=max(1, AT_ONCE // len(x_t)))
