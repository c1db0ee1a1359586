"""Weights on disk into a module in memory, tensor by tensor: at no time is more than one of them there twice."""

from collections.abc import Mapping

import torch
from torch import Size, Tensor

from ldm_train.weights.tensor_mapping import Piece, refuse_differences


@torch.no_grad()
def load(
    into: Mapping[str, Tensor], table: Mapping[str, Piece], tensors: Mapping[str, Tensor], found: Mapping[str, Size]
) -> None:
    """Copy what a table makes of the tensors into those of a module, in its own type; nothing where these are on "meta".

    Args:
        into: a module's `state_dict()`.
        found: the tensors' shapes, none of which is read before all are right.

    Raises:
        ValueError: tensors are missing, left over, or of another shape or kind.
    """
    refuse_differences(table, found, {name: tensor.shape for name, tensor in into.items()})
    for name, target in into.items():
        if target.is_meta:
            continue
        target.copy_(table[name](tensors))
