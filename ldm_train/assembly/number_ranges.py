"""The ranges of conditions on numbers, where the settings leave them to the data."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch

from ldm_train.assembly.parts import find_class
from ldm_train.conditioners.number import Number, find_range, list_number_columns
from ldm_train.data.cache.reader import EncodedExamples
from ldm_train.data.scan.survey import Survey
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.signatures import signature

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


def takes_range(part: Part) -> bool:
    """Return whether a condition is on a number, with a range that the data fills in."""
    kind, found = find_class(part), signature(part.target)
    takes = set() if found is None else found.kinds.keys()
    return kind is not None and issubclass(kind, Number) and takes >= {"column", "low", "high"}


def fill_numbers(
    config: Training,
    column: Callable[[str], Iterable[str | None]],
    rows: Callable[[], Iterable[Mapping[str, str]]] = list,
) -> Training:
    """Return settings in which conditions on numbers have the range of their data, where nothing else is set.

    Args:
        column: returns a column of all pictures' metadata.
        rows: returns the metadata of some pictures, for a message.

    Raises:
        ValueError: there are not two different numbers in a column.
    """
    filled = []
    for part in config.conditions:
        if takes_range(part) and None in (part.get("low"), part.get("high")):
            name = str(part.get("column"))
            low, high = find_range(name, column(name), columns=lambda: list_number_columns(rows()))
            low, high = (
                given if given is not None else found for given, found in ((part.get("low"), low), (part.get("high"), high))
            )
            part = part.with_values(low=low, high=high)
        filled.append(part)
    return config.with_values(conditions=filled)
