"""Load weights from disk into a module tensor by tensor, so that at most one tensor is in memory twice."""

from collections.abc import Mapping

import torch
from torch import Size, Tensor, nn

from ldm_train.weights.tensor_mapping import Piece, check_shapes


@torch.no_grad()
def copy_into_module(
    state: Mapping[str, Tensor], table: Mapping[str, Piece], tensors: Mapping[str, Tensor], shapes: Mapping[str, Size]
) -> None:
    """Copy each piece of a table into the tensor of the same name of a module, in that tensor's type.

    Meta tensors are skipped, so with a module on "meta" this only checks the shapes.

    Args:
        state: the module's `state_dict()`.
        tensors: what the pieces are made of.
        shapes: of `tensors`; all are checked before the first tensor is read.

    Raises:
        ValueError: tensors are missing, unexpected, or of another shape or kind.
    """
    check_shapes(table, shapes, {name: tensor.shape for name, tensor in state.items()})
    for name, target in state.items():
        if not target.is_meta:
            target.copy_(table[name](tensors))


def allocate_module(module: nn.Module) -> None:
    """Give every tensor of a module's state on "meta" memory on the CPU, with any values.

    `Module.to_empty` does that too, and imports torch's symbolic shapes for it, which takes half a second.
    """
    state = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
