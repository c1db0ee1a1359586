"""By how much the loss of each example counts: a number of its metadata, times that of its data set."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

LARGEST = 1e6  # weight; the loss and its gradients stay finite


class NamedExamples(Protocol):
    """Examples with metadata. `sets` has the number of examples of each data set."""

    sets: list[int]

    def name(self, example: int) -> str: ...

    def column(self, name: str) -> Iterator[str | None]: ...


def read_loss_weights(latents: NamedExamples, column: str | None, factors: Sequence[float] | None) -> Tensor | None:
    """Return the weight of each example's loss, (N,) float32; None if all count the same.

    Args:
        column: of the metadata; examples without it count once. None for no column.
        factors: of the data sets, by which those are multiplied; None for 1.

    Raises:
        ValueError: another number of factors than data sets, a weight that is no number from 0 to 1e6, or none above 0.
    """
    if column is None and factors is None:
        return None
    check_factors(factors, len(latents.sets))
    weights = torch.ones(sum(latents.sets)) if column is None else _read_column(latents, column)
    if factors is not None:
        weights *= torch.tensor(factors, dtype=torch.float32).repeat_interleave(torch.tensor(latents.sets))
    if weights.max() > LARGEST:
        raise ValueError(
            f"loss_weight={column} and cache_loss_weights={factors} give a picture the weight {weights.max():g}; at most "
            f"{LARGEST:g} is accepted"
        )
    if not (weights > 0).any():
        raise ValueError(f"loss_weight={column} and cache_loss_weights={factors} leave no picture a weight above 0")
    return weights


def check_factors(factors: Sequence[float] | None, count: int) -> None:
    """Raise if there is another number of factors than of data sets."""
    if factors is not None and len(factors) != count:
        raise ValueError(f"cache_loss_weights={list(factors)} must have a number for each cache, and there are {count}")


def _read_column(latents: NamedExamples, column: str) -> Tensor:
    """Return the numbers of a column, (N,), 1 for examples that do not have it."""
    texts = list(latents.column(column))
    if not any(text is not None for text in texts):
        raise ValueError(f"loss_weight={column}: the pictures' metadata has no column {column}; name one that it has")
    weights = [1.0 if text is None else _parse_weight(text) for text in texts]
    if wrong := [number for number, weight in enumerate(weights) if not 0 <= weight <= LARGEST]:
        raise ValueError(
            f"loss_weight={column}: {latents.name(wrong[0])} has {texts[wrong[0]]!r} there, which must be a number "
            f"from 0 to {LARGEST:g}"
        )
    return torch.tensor(weights)


def _parse_weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
