"""UniPC: a multistep predictor, and a corrector that reuses the denoiser's call of the next step."""

import math

import torch
from torch import Tensor

from ldm_train.samplers.base import Sampler, Step


class UniPC(Sampler):
    """Predictor and corrector (Zhao et al. 2023, arXiv 2302.04867, algorithms 1 and 2, for the clean estimate).

    Both are x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) (D + sum_k w_k (D_k - D) / r_k). D is the clean estimate at t,
    and D_k are clean estimates at lambda_t + r_k h: of earlier steps for the predictor (UniP), and also of the predicted
    x_s for the corrector (UniC). The weights w match the expansion of the exponential integral to as many orders as there
    are points, with B(h) = e^h - 1. The corrector raises the order of convergence by one (theorem 3.1).

    Args:
        order: of the predictor, 1 to 3; the corrector has one more. The first and the last steps have a lower order.
    """

    def __init__(self, *, order: int = 2) -> None:
        if order not in (1, 2, 3):
            raise ValueError(f"sampler.order={order} must be 1, 2 or 3")
        self.order = order

    def step(self, step: Step) -> Tensor:
        if step.previous is not None and math.isfinite(step.previous.t.log_ratio):
            step.x_t = exponential_step(step.previous, previous_steps(step.previous, self.order), after=step.estimate.clean)
        return exponential_step(step, previous_steps(step, self.order))


def previous_steps(step: Step, order: int) -> list[Step]:
    """Return the earlier steps whose estimates are used at this order, the latest first."""
    steps: list[Step] = []
    if math.isfinite(step.s.log_ratio):
        while len(steps) < order - 1 and (before := (steps or [step])[-1].previous) and math.isfinite(before.t.log_ratio):
            steps.append(before)
    return steps


def exponential_step(step: Step, others: list[Step], *, after: Tensor | None = None) -> Tensor:
    """Return x_s of a step, from the estimates of earlier steps and, for the corrector, the estimate `after` at s."""
    t, s, clean = step.t, step.s, step.estimate.clean
    x_s = s.sigma / t.sigma * step.x_t + s.alpha * (1 - s.ratio / t.ratio) * clean
    h = s.log_ratio - t.log_ratio
    places = [(other.t.log_ratio - t.log_ratio) / h for other in others] + ([] if after is None else [1.0])
    estimates = [other.estimate.clean for other in others] + ([] if after is None else [after])
    for weight, place, estimate in zip(match_orders(h, places), places, estimates, strict=True):
        x_s = x_s + s.alpha * (1 - s.ratio / t.ratio) * weight / place * (estimate - clean)
    return x_s


def match_orders(h: float, places: list[float]) -> list[float]:
    """Return w with sum_k w_k r_k^(n - 1) = b_n for n = 1 ... K (arXiv 2302.04867, eq. 5 and appendix), for K places r.

    b_n = n! phi_(n+1)(-h) / phi_1(-h); for a single place b = 1/2, as in the paper.
    """
    if len(places) <= 1:
        return [0.5] * len(places)
    phi = math.expm1(-h) / -h
    targets, term = [], phi
    for n in range(1, len(places) + 1):
        term = (term - 1 / math.factorial(n)) / -h
        targets.append(math.factorial(n) * term / phi)
    powers = torch.tensor(places, dtype=torch.float64) ** torch.arange(len(places), dtype=torch.float64)[:, None]
    return torch.linalg.solve(powers, torch.tensor(targets, dtype=torch.float64)).tolist()
