"""The kinds of the attributes of own objects that a run calculates with, or writes into a cache or a run directory."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What an attribute must be, and the rule that decides."""

    name: str
    fits: Callable[[object], bool]


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_number(value: object) -> bool:
    """Return whether a value is a finite number of Python's own."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_record(value: object) -> bool:
    """Return whether a value is a dictionary that a file can hold."""
    try:
        return isinstance(value, dict) and json.dumps(value) != ""
    except (TypeError, ValueError, RecursionError):
        return False


WHOLE_NUMBER = Kind("a whole number of at least 1", is_whole)
WIDTH = Kind("a whole number of at least 1, or None", lambda value: value is None or is_whole(value))
NUMBER = Kind("a finite number", is_number)
COUNT = Kind("a whole number of at least 0", lambda value: is_whole(value) or (type(value) is int and value == 0))
SCALE = Kind("a finite number above 0", lambda value: is_number(value) and float(str(value)) > 0)
BOOL = Kind("True or False", lambda value: isinstance(value, bool))
NAME = Kind("a text", lambda value: isinstance(value, str) and value.strip() != "")
RECORD = Kind("a dictionary of numbers, texts, lists and dictionaries", is_record)

ATTRIBUTES: dict[str, dict[str, Kind]] = {
    "autoencoder": {"channels": WHOLE_NUMBER, "factor": WHOLE_NUMBER, "shift": NUMBER, "scale": SCALE, "identity": RECORD},
    "text_encoder": {
        **{"context_width": WIDTH, "vector_width": WIDTH, "capacity": WHOLE_NUMBER, "trained": BOOL},
        **{"identity": RECORD, "computation": RECORD},
    },
    "condition": {"vector_width": COUNT, "map_channels": COUNT, "unit": WHOLE_NUMBER, "identity": RECORD},
    "schedule": {"start": NUMBER, "end": NUMBER},
    "features": {"name": NAME, "size": WHOLE_NUMBER},
    "crop": {"views": WHOLE_NUMBER, "identity": RECORD},
    "network": {"divisor": WHOLE_NUMBER},  # which it may lack
    "source": {"notes": Kind("a list, which super().__init__() makes", lambda value: isinstance(value, list))},
}


def check_attributes(made: object, target: str, group: str) -> None:
    """Raise if own code has an attribute of another kind than the objects of its group have.

    Raises:
        ValueError: it names the class and the attribute, and what it is and must be.
    """
    for name, kind in ATTRIBUTES.get(group, {}).items():
        try:
            value = getattr(made, name, None)
        except Exception as error:
            raise ValueError(f"{group}._target_={target}: {name} fails ({type(error).__name__}: {error})") from error
        if not kind.fits(value) and (group != "network" or value is not None):
            raise ValueError(f"{group}._target_={target}: {name} must be {kind.name}, and is {value!r:.200}")
