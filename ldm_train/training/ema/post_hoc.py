"""Reconstruct an average of any length from averages of a few lengths that were stored now and then.

After t updates the average with exponent gamma has the profile p(s) = (gamma + 1) / t (s / t)^gamma for s from 0 to t. Two
such profiles have, with m = min(t_a, t_b), the inner product

    <p_a, p_b> = (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) / m (m / t_a)^(gamma_a + 1) (m / t_b)^(gamma_b + 1).

The combination sum_i x_i p_i that is nearest to a target profile q in the mean square solves <p_i, p_j> x = <p_i, q> (Karras
et al. 2024, arXiv 2312.02696, section 3.2 and appendix C). Their coefficients sum to nearly 1. Here a Lagrange multiplier
makes the sum exactly 1, because its error would be multiplied by the whole weights, which are far larger than the changes
that averaging makes to them.

Discrete steps cost no accuracy: the coefficient that `Power` gives step s is the profile's integral from s - 1 to s.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Combination:
    """Coefficients of the stored averages, (K,) float64, and their distance from the target profile.

    Args:
        residual: norm of the difference of the profiles over the norm of the target; about 1e-4 is a perfect fit.
    """

    coefficients: Tensor
    residual: float


def compute_inner_products(t_a: Tensor, gamma_a: Tensor, t_b: Tensor, gamma_b: Tensor) -> Tensor:
    """Return the inner products of profiles after t updates, whose tensors broadcast."""
    m = torch.minimum(t_a, t_b)
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) / m
    return scale * (m / t_a) ** (gamma_a + 1) * (m / t_b) ** (gamma_b + 1)


def fit_coefficients(t: Tensor, gamma: Tensor, *, wished_t: float, wished_gamma: float) -> Combination:
    """Return the combination nearest to the profile of exponent `wished_gamma` after `wished_t` updates.

    Args:
        t, gamma: updates and exponents of the stored averages, (K,), no pair twice.
    """
    t, gamma = t.double() / wished_t, gamma.double()
    one, wished = torch.ones_like(t), torch.full_like(t, wished_gamma)
    products = compute_inner_products(t[:, None], gamma[:, None], t, gamma)
    with_wished = compute_inner_products(t, gamma, one, wished)
    # In units of each profile's norm: the oldest profiles are narrow and high, and would dominate the others' rounding.
    norms = products.diagonal().sqrt()
    corner = torch.zeros(1, 1, dtype=torch.float64)
    bordered = torch.cat(
        [torch.cat([products / norms / norms[:, None], (1 / norms)[:, None]], 1), torch.cat([(1 / norms)[None], corner], 1)]
    )
    right = torch.cat([with_wished / norms, one[:1]])
    coefficients = torch.linalg.solve(bordered, right)[:-1] / norms
    square = compute_inner_products(one, wished, one, wished)[0]
    difference = square - 2 * coefficients @ with_wished + coefficients @ products @ coefficients
    return Combination(coefficients, (difference.clamp(min=0) / square).sqrt().item())


def combine_tensors(coefficients: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """Return the combination of one tensor, given in each stored average, in float64."""
    total: Tensor | None = None
    for coefficient, tensor in zip(coefficients.tolist(), tensors, strict=True):
        total = tensor.double() * coefficient if total is None else total.add_(tensor.double(), alpha=coefficient)
    assert total is not None
    return total
