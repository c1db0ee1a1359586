"""Muon for the matrices of hidden layers, and AdamW for all other parameters, in one optimizer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytorch_optimizer import Muon
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


def build_muon(
    params: ParamsT,
    *,
    lr: float = 1e-3,
    momentum: float = 0.95,
    weight_decay: float = 0.01,
    ns_steps: int = 5,
    betas: Sequence[float] = (0.9, 0.99),
    eps: float = 1e-8,
    adamw_for: Sequence[str] = (),
) -> Optimizer:
    """Return Muon (Jordan et al. 2024) with one rate for both of its methods.

    A kernel is the matrix (out, in * height * width). The orthogonal update of a matrix is multiplied by 0.2 times the
    square root of its longer side, so that it is about as large as AdamW's at the same rate (Liu et al. 2025, arXiv
    2502.16982, eq. 4).

    Args:
        params: groups with `use_muon`; parameters without it are divided by their shape.
        ns_steps: iterations that make an update orthogonal.
        betas, eps: of AdamW.
        adamw_for: the patterns of names by which `ParameterGroups` divides `params`; groups themselves have no names.
    """
    given = list(params)
    groups = given if isinstance(given[0], dict) else [{"params": given}]
    divided = [part for group in groups for part in _divide(group)]  # type: ignore[arg-type]
    moments = {"adamw_lr": lr, "adamw_betas": tuple(betas), "adamw_wd": weight_decay, "adamw_eps": eps}
    return Muon(
        divided, lr=lr, momentum=momentum, weight_decay=weight_decay, ns_steps=ns_steps, use_adjusted_lr=True, **moments
    )


def _divide(group: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a group that says which method trains it, or its matrices and its vectors as two groups."""
    if "use_muon" in group:
        yield dict(group)
        return
    for use_muon in (True, False):
        if chosen := [p for p in group["params"] if (p.ndim >= 2) == use_muon]:
            yield {**group, "params": chosen, "use_muon": use_muon}
