"""Trained weights by the blocks of a network, and how large and how far apart those are."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

WHOLE = {"text_encoder"}  # are one block each


def block(name: str) -> str:
    """The block of a parameter: `network.down.0`, `text_encoder`, `autoencoder.decoder`."""
    first, *rest = (part for part in name.split(".") if part != "model")  # of diffusers' networks, which are wrapped
    if first in WHOLE or not rest:
        return first
    return ".".join([first, *rest[: 2 if len(rest) > 1 and rest[1].isdigit() else 1]])


def by_block(names: Sequence[str]) -> dict[str, list[str]]:
    """The names of each block's parameters, in order."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(block(name), []).append(name)
    return found


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, which is written through; others as they are."""
    whole = tensor.detach()
    return whole.to_local() if isinstance(whole, DTensor) else whole


def squares(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of the squares of this process's values, () float64."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.stack(torch._foreach_norm(list(tensors), 2, dtype)).double().square().sum()


def distances(weights: Mapping[str, Tensor], others: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """The sum of the squared differences of these weights from others, of this process's values, () float64."""
    mine, theirs = ([local(values[name]) for name in names] for values in (weights, others))
    return squares(torch._foreach_sub(mine, theirs))
