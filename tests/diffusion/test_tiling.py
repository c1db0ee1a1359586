"""Tiles: where they are, that blending keeps what all agree on, and that no border shows."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pixel_unshuffle
from torch.testing import assert_close

from ldm_train.diffusion.tiling import STRIDE, TiledNetwork, blend_tiles, cut_tiles, decode_tiles, place_tiles
from ldm_train.types import Conditioning


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 64))
def test_tiles_cover_all_and_overlap(height: int, width: int, side: int) -> None:
    places = place_tiles(height, width, side)
    for axis, length in enumerate((height, width)):
        parts = sorted({(place[axis].start, place[axis].stop) for place in places})
        assert (parts[0][0], parts[-1][1]) == (0, length)
        assert {stop - start for start, stop in parts} == {min(side, length)}
        gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(parts)]
        assert all(gap <= max(1, STRIDE * side) + 0.5 for gap in gaps)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_blending_what_was_cut_gives_it_back(at_once: int) -> None:
    x = torch.randn(2, 3, 37, 50, dtype=torch.float64)
    assert_close(blend_tiles(lambda places: cut_tiles(x, places), (37, 50), 16, at_once=at_once), x)


def test_each_tile_gets_its_own_part_of_the_inputs() -> None:
    """A network that sees only one position gives the same in tiles as at once, with all that it is conditioned on."""

    def network(x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        rows = t + conditioning.vector[:, 0] + (conditioning.tokens[:, :, 0] * conditioning.mask).sum(1)
        return x_t.square() + 2 * conditioning.maps[:, :1] + rows.view(-1, 1, 1, 1)

    torch.manual_seed(0)
    tokens, mask = torch.randn(3, 5, 2), torch.rand(3, 5) > 0.5
    given = Conditioning(tokens, mask, torch.randn(3, 4), torch.randn(3, 2, 20, 30))
    x_t, t = torch.randn(3, 4, 20, 30), torch.tensor([1.0, 2.0, 3.0])
    assert_close(TiledNetwork(network, side=8)(x_t, t, given), network(x_t, t, given))


def test_each_tile_gets_its_own_part_of_the_map_for_a_controlnet() -> None:
    """That map has several pixels for each position of the latents; examples without one stay without it."""

    def network(x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return x_t + pixel_unshuffle(conditioning.control, 4) * conditioning.controlled.view(-1, 1, 1, 1)

    torch.manual_seed(0)
    given = Conditioning(control=torch.randn(2, 1, 80, 120), controlled=torch.tensor([True, False]))
    x_t, t = torch.randn(2, 16, 20, 30), torch.zeros(2)
    assert_close(TiledNetwork(network, side=8)(x_t, t, given), network(x_t, t, given))


def test_a_jump_from_tile_to_tile_becomes_a_slope() -> None:
    """Tiles that disagree by 1 are joined without a step of more than a few hundredths."""
    numbers = iter(range(100))

    def compute(places: list[tuple[slice, slice]]) -> Tensor:
        return torch.cat([torch.full((1, 1, 64, 64), float(next(numbers) % 2)) for _ in places])

    drawn = blend_tiles(compute, (64, 160), 64)  # type: ignore[arg-type]
    assert drawn.amax() - drawn.amin() > 0.9
    assert drawn.diff(dim=3).abs().max() < 0.15


def test_decoding_in_tiles_enlarges_each() -> None:
    latents = torch.randn(2, 3, 12, 20)

    def decode(part: Tensor) -> Tensor:
        return part.repeat_interleave(4, 2).repeat_interleave(4, 3)

    assert_close(decode_tiles(decode, latents, side=8, scale=4), decode(latents))
    assert torch.equal(decode_tiles(decode, latents, side=None, scale=4), decode(latents))
