"""A number of each picture as a condition: an age, a temperature, a brightness."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ldm_train.conditioners.condition import NAME, Condition, drop
from ldm_train.conditioners.picture_size import check_width
from ldm_train.networks.embeddings import embed_sinusoidal
from ldm_train.types import ConditionedExamples, Conditioning, Given
from ldm_train.util.text import shorten

LARGEST = torch.finfo(torch.float32).max
TOP = 1000.0  # what `high` is embedded as, as the largest timestep is


class Number(Condition):
    """A number of a column of the pictures' metadata, as sinusoidal features of its place between `low` and `high`.

    Args:
        column: the metadata's column.
        low, high: the numbers that count as 0 and 1. Left out, they are the smallest and largest of the data, which a run
            fills in.
        width: features, even.
        dropout: share of the examples that are trained without it; above 0, pictures may lack the number.

    Raises:
        ValueError: `low` is not below `high`, they are not finite, or the column's name cannot be the condition's.
    """

    takes_number = True

    def __init__(
        self,
        column: str,
        *,
        name: str | None = None,
        low: float | None = None,
        high: float | None = None,
        width: int = 64,
        dropout: float = 0.05,
    ) -> None:
        if name is None and not NAME.fullmatch(column):
            raise ValueError(
                f"the column {column!r} cannot name a condition, which takes letters, digits and underscores; add a "
                f"name, as in {{number:{{column:{column},name:my_number}}}}"
            )
        super().__init__(column if name is None else name, dropout=dropout)
        self.column = column
        self.low, self.high = 0.0 if low is None else float(low), 1.0 if high is None else float(high)
        if not 0 < self.high - self.low < LARGEST:
            raise ValueError(f"low={low} and high={high} of the condition {self.name} must be finite numbers, low < high")
        self.vector_width = check_width(width, self.name)
        self.identity = {"kind": "number", "low": self.low, "high": self.high, "width": width}

    def read(self, examples: ConditionedExamples) -> Callable[[Tensor, Tensor], Given]:
        texts = list(examples.column(self.column))
        values = torch.tensor([parse_number(text) for text in texts], dtype=torch.float64)
        if (missing := values.isnan().nonzero()[:, 0].tolist()) and not self.dropout:
            raise ValueError(
                f"{describe_missing(self.column, texts)}; the first is {examples.name(missing[0])}; a dropout above 0 "
                "trains them without it"
            )
        return partial(_read, values)

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> Given:
        return Given(torch.zeros(count), torch.zeros(count, dtype=torch.bool))

    def forward(self, values: Tensor, kept: Tensor) -> Conditioning:
        # In double precision: single precision makes the same of dates and other large numbers close together.
        places = (values.double() - self.low) / (self.high - self.low)
        return Conditioning(vector=drop(embed_sinusoidal((TOP * places).float(), self.vector_width), kept))


def parse_number(text: str | None) -> float:
    """Return the number that a text writes; NaN if it writes no finite one, or one too large for single precision."""
    try:
        number = math.nan if text is None else float(text)
    except ValueError:
        return math.nan
    return number if abs(number) <= LARGEST else math.nan


def list_number_columns(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the columns that have a number in one of the rows."""
    return sorted({name for row in rows for name, text in row.items() if not math.isnan(parse_number(text))})


def find_range(
    column: str, texts: Iterable[str | None], *, columns: Callable[[], Sequence[str]] = list
) -> tuple[float, float]:
    """Return the smallest and the largest number of a column.

    Args:
        columns: returns the columns that have numbers, for a message.

    Raises:
        ValueError: there are not two different numbers in it.
    """
    texts = list(texts)
    found = [number for text in texts if not math.isnan(number := parse_number(text))]
    if not found or min(found) == max(found):
        what = f"only the number {found[0]:g}" if found else "no number"
        missing = f" ({missing})" if (missing := describe_missing(column, texts)) else ""
        others = ", ".join(columns()) or "none"
        raise ValueError(
            f"conditions: the pictures' metadata has {what} in the column {column}{missing}; name a column with different "
            f"numbers (columns with numbers: {others})"
        )
    return min(found), max(found)


def describe_missing(column: str, texts: Sequence[str | None]) -> str | None:
    """Return how many pictures have no number in a column, with an example of what they have; None if all have one."""
    missing = [text for text in texts if math.isnan(parse_number(text))]
    if not missing:
        return None
    other = [text for text in missing if text is not None and text.strip().lower() not in ("", "nan")]
    count = f"{len(missing):,} of {len(texts):,} pictures have no number in the column {column}"
    if not other:
        return count
    return f"{count}, {len(other):,} of them another text, such as {shorten(other[0])!r} (a number is written 1.5)"


def _read(values: Tensor, chosen: Tensor, views: Tensor) -> Given:
    found = values[chosen]
    return Given(found.nan_to_num(), ~found.isnan())
