"""Columns of metadata that conditions on numbers read: the range that they have, and pictures that have no number there."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch

from ldm_train.assembly.parts import find_class
from ldm_train.conditioners.number import Number, describe_missing, find_range, list_number_columns
from ldm_train.data.cache.reader import EncodedExamples
from ldm_train.data.scan.survey import Survey
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.signatures import signature
from ldm_train.util.messages import warn
from ldm_train.util.processes import launched_rank

SEEN = 100  # examples whose columns a message names
Training = TypeVar("Training", bound=TrainSettings)


def list_column(survey: Survey, name: str) -> list[str | None]:
    """Return a column of the metadata of a source's usable pictures."""
    return [seen.item.fields.get(name) for seen in survey.scanned]


def list_fields(survey: Survey) -> list[dict[str, str]]:
    """Return the metadata of a source's usable pictures."""
    return [seen.item.fields for seen in survey.scanned]


def read_first_fields(latents: EncodedExamples) -> list[dict[str, str]]:
    """Return the metadata of the first examples."""
    return latents.fields(torch.arange(min(SEEN, len(latents.index))))


def is_number(part: Part) -> bool:
    """Return whether a condition is on a number of a column."""
    kind, found = find_class(part), signature(part.target)
    return kind is not None and issubclass(kind, Number) and found is not None and "column" in found.kinds


def takes_range(part: Part) -> bool:
    """Return whether a condition on a number has a range that the data fills in."""
    found = signature(part.target)
    return found is not None and found.kinds.keys() >= {"low", "high"}


def fill_numbers(
    config: Training,
    column: Callable[[str], Iterable[str | None]],
    rows: Callable[[], Iterable[Mapping[str, str]]] = list,
) -> Training:
    """Return settings in which conditions on numbers have the range of their data, where nothing else is set.

    A warning says how many pictures have no number, as far as they are trained without it.

    Args:
        column: returns a column of all pictures' metadata.
        rows: returns the metadata of some pictures, for a message.

    Raises:
        ValueError: there are not two different numbers in a column.
    """
    filled = []
    for part in config.conditions:
        if is_number(part):
            name = str(part.get("column"))
            texts = list(column(name))
            if takes_range(part) and None in (given := (part.get("low"), part.get("high"))):
                found = find_range(name, texts, columns=lambda: list_number_columns(rows()))
                low, high = (there if one is None else one for one, there in zip(given, found, strict=True))
                part = part.with_values(low=low, high=high)
            missing = describe_missing(name, texts)
            if missing is not None and part.get("dropout") != 0 and launched_rank() == 0:
                warn(f"{missing}; they are trained without it")
        filled.append(part)
    return config.with_values(conditions=filled)
