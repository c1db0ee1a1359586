"""One layout's tensors from another's: a table says of each which ones it is made of, and how they are joined or turned.

A table is evaluated tensor by tensor, so that a file of any size may be renamed on its way into a network or out of one.
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
    """A tensor made of the tensors of these names, concatenated along their first dimension.

    Args:
        part: of these, the i-th of n equal stretches.
        turn: "matrix": a 1x1 convolution's weight may come as one, or as the matrix that it is; "convolution": the matrix as
            such a weight; "transposed"; "zeros": as many as the tensor has columns; "table": a linear layer's weight and
            bias as the rows that it gives for one-hot vectors.
        more_columns: so many of zeros are appended to its second dimension, such as a convolution's further input channels.
    """

    names: tuple[str, ...]
    part: tuple[int, int] = (0, 1)
    turn: Turn = ""
    more_columns: int = 0

    def __call__(self, state: Mapping[str, Tensor]) -> Tensor:
        """The tensor, which may share its memory with what it is made of."""
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
        """The shape of each tensor that makes one of this shape, where nothing is split off."""
        if self.turn == "transposed":
            return Size(reversed(shape))
        return Size((shape[0] // len(self.names), *(side - self.more_columns for side in shape[1:2]), *shape[2:]))

    def takes(self, found: Size, shape: Size) -> bool:
        """Whether a tensor of the shape found is one that makes a tensor of this shape."""
        needed = self.needs(shape)
        return found == needed or (self.turn == "matrix" and found == (*needed, 1, 1))


def refuse_differences(table: Mapping[str, Piece], found: Mapping[str, Size], shapes: Mapping[str, Size]) -> None:
    """Refuse tensors found under names, or in shapes, other than a table needs for tensors of these shapes.

    Raises:
        ValueError: it names the first five of those that are missing, left over or of another shape, and counts the rest.
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
        raise ValueError(f"the weights are not those of this network: {list_names(wrong)}")


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, Size]:
    """By name."""
    return {name: tensor.shape for name, tensor in state.items()}
