"""Convert tensors between layouts: a table maps each target name to the `Piece` that makes its tensor from the source's.

Tables are evaluated one tensor at a time, so that files of any size can be converted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Size, Tensor

from ldm_train.util.text import list_names

Turn = Literal["", "matrix", "convolution", "transposed", "zeros", "table"]


@dataclass(frozen=True)
class Piece:
    """A tensor made by concatenating source tensors along their first dimension, then taking a part, then converting it.

    Args:
        names: of the source tensors.
        part: (i, n) takes the i-th of n equal parts.
        turn: the conversion.
            "matrix": flatten the weight of a 1x1 convolution to the matrix of a linear layer; a matrix stays one.
            "convolution": the reverse.
            "transposed": swap both dimensions.
            "zeros": a vector of zeros, as long as the source has columns.
            "table": from a linear layer's weight and bias, the rows that it outputs for one-hot vectors.
        more_columns: how many columns of zeros to append to the second dimension, such as further input channels.
    """

    names: tuple[str, ...]
    part: tuple[int, int] = (0, 1)
    turn: Turn = ""
    more_columns: int = 0

    def __call__(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the tensor, which may share memory with its sources."""
        if self.more_columns:
            tensor = replace(self, more_columns=0)(state)
            return torch.cat([tensor, tensor.new_zeros(len(tensor), self.more_columns, *tensor.shape[2:])], dim=1)
        tensors = [state[name] for name in self.names]
        if self.turn == "table":
            return tensors[0].T + tensors[1]
        tensor = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        tensor = tensor if self.part == (0, 1) else tensor.chunk(self.part[1])[self.part[0]]
        if self.turn == "matrix":
            return tensor.flatten(1)
        if self.turn == "convolution":
            return tensor[:, :, None, None]
        if self.turn == "transposed":
            return tensor.T
        return tensor.new_zeros(tensor.shape[1]) if self.turn == "zeros" else tensor

    def needs(self, shape: Size) -> Size:
        """Return the shape that each source must have to make a tensor of this shape; for pieces that are not a part."""
        if self.turn == "transposed":
            return Size(reversed(shape))
        return Size((shape[0] // len(self.names), *(side - self.more_columns for side in shape[1:2]), *shape[2:]))

    def takes(self, found: Size, shape: Size) -> bool:
        """Return whether a source of the shape `found` can make a tensor of this shape."""
        needed = self.needs(shape)
        return found == needed or (self.turn == "matrix" and found == (*needed, 1, 1))


def check_shapes(table: Mapping[str, Piece], found: Mapping[str, Size], shapes: Mapping[str, Size]) -> None:
    """Raise unless the source tensors are exactly those that a table needs.

    Args:
        found: shapes of the source tensors.
        shapes: of the targets.

    Raises:
        ValueError: naming up to five tensors that are missing, left over or of another shape.
    """
    needed = {name: (piece, shapes[own]) for own, piece in table.items() if piece.turn != "zeros" for name in piece.names}
    wrong = [f"{name} (missing)" for name in sorted(needed.keys() - found.keys())]
    wrong += [f"{name} (left over)" for name in sorted(found.keys() - needed.keys())]
    wrong += [
        f"{name} ({tuple(found[name])} where the network has {tuple(piece.needs(shape))})"
        for name, (piece, shape) in needed.items()
        if name in found and not piece.takes(found[name], shape)
    ]
    if wrong:
        raise ValueError(f"the weights do not fit this network: {list_names(wrong)}")


def get_shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    """Return each tensor's shape by its name."""
    return {name: tensor.shape for name, tensor in state.items()}
