"""Averages that are made afterwards are those that would have been kept."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ldm_train.training.ema.post_hoc import Combination, combine_tensors, compute_inner_products, fit_coefficients
from ldm_train.training.ema.profiles import Power, gamma_of_length

STORED = (0.10, 0.05)
WISHED = [0.05, 0.08, 0.10, 0.15]


def walk(steps: int, *, jump: float, size: int = 2000) -> Tensor:
    """Weights of unit size that take steps of `jump` at random, (steps + 1, size)."""
    generator = torch.Generator().manual_seed(0)
    moves = torch.randn(steps + 1, size, generator=generator, dtype=torch.float64) * jump
    moves[0] = torch.randn(size, generator=generator, dtype=torch.float64)
    return moves.cumsum(0).float()


def tracked(weights: Tensor, length: float) -> Tensor:
    """The averages at every step (from 1 on), as training keeps them, in float32."""
    average, history = weights[0].clone(), []
    for number, now in enumerate(weights[1:], start=1):
        average.lerp_(now, 1 - Power(length).kept_share(number))
        history.append(average.clone())
    return torch.stack(history)


@dataclass(frozen=True)
class Stored:
    """Snapshots of a run: their updates, exponents and averages."""

    t: Tensor
    gamma: Tensor
    averages: Tensor

    @classmethod
    def of(cls, weights: Tensor, *, every: int, dtype: torch.dtype = torch.float32) -> "Stored":
        last = len(weights) - 1
        steps = sorted({*range(every, last + 1, every), last})
        rows = [(n, length) for n in steps for length in STORED]
        histories = {length: tracked(weights, length) for length in STORED}
        return cls(
            torch.tensor([n for n, _ in rows]),
            torch.tensor([gamma_of_length(length) for _, length in rows], dtype=torch.float64),
            torch.stack([histories[length][n - 1] for n, length in rows]).to(dtype),
        )

    def solve(self, length: float, t: float | None = None) -> Combination:
        wished_t = float(self.t.max()) if t is None else t
        return fit_coefficients(self.t, self.gamma, wished_t=wished_t, wished_gamma=gamma_of_length(length))


@pytest.mark.parametrize("length", WISHED)
@pytest.mark.parametrize(("steps", "every"), [(400, 32), (500, 25), (150, 10)])
@pytest.mark.parametrize("jump", [1.0, 1e-3], ids=["far", "near"])
def test_a_walks_average_is_the_tracked_one(length: float, steps: int, every: int, jump: float) -> None:
    """Within 1 % of itself, and by the stricter measure of what averaging changed of the weights."""
    weights = walk(steps, jump=jump)
    stored = Stored.of(weights, every=every)
    made, kept = combine_tensors(stored.solve(length).coefficients, stored.averages), tracked(weights, length)[-1].double()
    error = (made - kept).norm()
    assert error < 1e-2 * kept.norm()
    assert error < 1e-2 * (kept - weights[-1]).norm()


def test_float16_holds_a_per_cent_of_the_weights_but_not_of_what_averaging_changes() -> None:
    """Why float32 is the default: these weights move by a hundredth of themselves."""
    weights = walk(500, jump=1e-3)
    errors, kept = {}, tracked(weights, 0.08)[-1].double()
    for dtype in (torch.float16, torch.float32):
        stored = Stored.of(weights, every=25, dtype=dtype)
        errors[dtype] = (combine_tensors(stored.solve(0.08).coefficients, stored.averages) - kept).norm()
    changed = (kept - weights[-1]).norm()
    assert errors[torch.float16] < 1e-2 * kept.norm()
    assert errors[torch.float16] > 1e-2 * changed
    assert errors[torch.float32] < 1e-3 * changed


def test_an_earlier_steps_average_is_made_too() -> None:
    weights = walk(400, jump=1.0)
    stored = Stored.of(weights, every=25)
    until = stored.t <= 300
    part = Stored(stored.t[until], stored.gamma[until], stored.averages[until])
    made, kept = combine_tensors(part.solve(0.08).coefficients, part.averages), tracked(weights, 0.08)[299].double()
    assert (made - kept).norm() < 1e-2 * (kept - weights[300]).norm()


@pytest.mark.parametrize("length", [0.02, *WISHED, 0.25])
@pytest.mark.parametrize(("steps", "every"), [(8, 8), (8, 3), (500, 25), (100_000, 250)])
def test_coefficients_sum_to_one(length: float, steps: int, every: int) -> None:
    t = torch.arange(every, steps + 1, every).repeat_interleave(len(STORED))
    gamma = torch.tensor([gamma_of_length(own) for own in STORED], dtype=torch.float64).repeat(len(t) // len(STORED))
    found = fit_coefficients(t, gamma, wished_t=float(steps), wished_gamma=gamma_of_length(length))
    assert found.coefficients.sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("length", STORED)
def test_what_is_stored_comes_back_alone(length: float) -> None:
    stored = Stored.of(walk(200, jump=1.0, size=3), every=20)
    found = stored.solve(length)
    itself = ((stored.t == 200) & (stored.gamma == gamma_of_length(length))).double()
    assert_close(found.coefficients, itself, rtol=0, atol=1e-7)
    assert found.residual < 1e-3


def test_the_residual_tells_what_cannot_be_made() -> None:
    often, seldom = (Stored.of(walk(200, jump=1.0, size=3), every=every) for every in (10, 100))
    assert often.solve(0.08).residual < 0.01 < 0.03 < seldom.solve(0.08).residual
    assert often.solve(0.02).residual > 0.05, "shorter than what is stored"
    assert often.solve(0.08, t=195).residual > 2 * often.solve(0.08).residual, "between two snapshots"


@pytest.mark.parametrize("shares", [(1.0, 1.0), (0.3, 1.0), (1.0, 0.6)])
@pytest.mark.parametrize("gammas", [(16.97, 6.94), (6.94, 0.5), (3.0, 3.0)])
def test_inner_products_are_the_integrals(shares: tuple[float, float], gammas: tuple[float, float]) -> None:
    s = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    first, second = (
        torch.where(s <= t, (gamma + 1) / t * (s / t) ** gamma, 0.0) for t, gamma in zip(shares, gammas, strict=True)
    )
    pairs = [
        torch.tensor(value, dtype=torch.float64) for t, gamma in zip(shares, gammas, strict=True) for value in (t, gamma)
    ]
    assert compute_inner_products(*pairs).item() == pytest.approx((first * second).mean().item(), rel=1e-4)


def test_the_combination_is_the_nearest() -> None:
    """Any other that sums to 1 is farther, by the integrals themselves."""
    stored = Stored.of(walk(60, jump=1.0, size=3), every=10)
    s = (torch.arange(60_000, dtype=torch.float64) + 0.5) / 1000
    profiles = torch.stack(
        [torch.where(s <= t, (g + 1) / t * (s / t) ** g, 0.0) for t, g in zip(stored.t, stored.gamma, strict=True)]
    )
    gamma = gamma_of_length(0.07)
    wished = (gamma + 1) / 60 * (s / 60) ** gamma
    found = stored.solve(0.07).coefficients

    def error(coefficients: Tensor) -> float:
        return ((coefficients @ profiles - wished).square().mean() / wished.square().mean()).sqrt().item()

    assert error(found) == pytest.approx(stored.solve(0.07).residual, rel=1e-3)
    for seed in range(10):
        change = torch.randn(len(found), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1e-2
        assert error(found + change - change.mean()) > error(found)


def test_averages_are_combined_one_at_a_time() -> None:
    """Many snapshots of a large tensor take the place of one."""
    alive: list[weakref.ref[Tensor]] = []

    def stored() -> Iterator[Tensor]:
        for value in (1.0, 2.0, 3.0):
            assert sum(tensor() is not None for tensor in alive) <= 1
            tensor = torch.full((2,), value)
            alive.append(weakref.ref(tensor))
            yield tensor
            del tensor

    assert_close(combine_tensors(torch.tensor([0.5, 2.0, -1.0]), stored()), torch.full((2,), 1.5, dtype=torch.float64))
