"""Norms of trained weights, and of their differences, by the blocks of a network."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ldm_train.training.optimization.sharded_tensors import local_part

SINGLE_BLOCKS = {"text_encoder"}  # modules that are one block each


def name_block(name: str) -> str:
    """Return the block of a parameter's name: `network.down.0`, `text_encoder`, `autoencoder.decoder`."""
    first, *rest = (part for part in name.split(".") if part != "model")  # diffusers' networks are wrapped in a `model`
    if first in SINGLE_BLOCKS or not rest:
        return first
    return ".".join([first, *rest[: 2 if len(rest) > 1 and rest[1].isdigit() else 1]])


def group_by_block(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of each block's parameters, in order."""
    blocks: dict[str, list[str]] = {}
    for name in names:
        blocks.setdefault(name_block(name), []).append(name)
    return blocks


def sum_squares(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of squares of this process's values, () float64."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.stack(torch._foreach_norm(list(tensors), 2, dtype)).double().square().sum()


def sum_squared_differences(weights: Mapping[str, Tensor], others: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return the sum of squared differences between two sets of weights, of this process's values, () float64."""
    first, second = ([local_part(values[name].detach()) for name in names] for values in (weights, others))
    return sum_squares(torch._foreach_sub(first, second))
