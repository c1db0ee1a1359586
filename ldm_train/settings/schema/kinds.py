"""The kinds of values that settings take.

A type is checked by pydantic; what a type cannot say (a range, a choice, a path that must not be empty) is an annotation
that `out_of_range` checks afterwards, so that one look lists every value that is out of range.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, runtime_checkable

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from ldm_train.settings.schema.typed_values import as_factors, as_objects, as_prompts, expand_home, is_mapping, read_mapping
from ldm_train.util.text import nearest

MISSING = "???"  # in a config file: a value that must be given


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, or above `low`, or below `high`."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    infinite: bool = False  # whether infinity is accepted too

    def problem(self, value: object) -> str | None:
        """Return what is accepted if a value is out of range."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        high_enough = value > self.low if self.above else value >= self.low
        within = high_enough and (value < self.high if self.below else value <= self.high)
        return None if within and (self.infinite or math.isfinite(value)) else f"must be {self}"

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'above' if self.above else 'at least'} {self.low:g}"
        low = f"above {self.low:g} and up to" if self.above else f"from {self.low:g} to"
        return f"{low} {'below ' if self.below else ''}{self.high:g}"


@dataclass(frozen=True)
class Choice:
    """One of some texts, or one that matches a pattern."""

    options: tuple[str, ...]
    pattern: str = r"(?!)"

    def problem(self, value: object) -> str | None:
        """Return what is accepted if a value is none of them."""
        if value is None or str(value) in self.options or re.fullmatch(self.pattern, str(value)):
            return None
        return f"is not known; accepted: {self}{nearest(str(value), self.options)}"

    def __str__(self) -> str:
        return ", ".join(self.options)


@dataclass(frozen=True)
class NotEmpty:
    """A path, since an empty one would mean the current folder; or a list of at least one path."""

    def problem(self, value: object) -> str | None:
        """Return what to do if a path or a list is empty."""
        if value == [] or (isinstance(value, str) and not value.strip()):
            return "is empty; give it a name (is a variable of the shell unset?)"
        return None

    def __str__(self) -> str:
        return "a path"


@dataclass(frozen=True)
class Length:
    """A list of so many values."""

    count: int

    def problem(self, value: object) -> str | None:
        """Return what is accepted if a list is shorter or longer."""
        return f"must be {self}" if isinstance(value, list) and len(value) != self.count else None

    def __str__(self) -> str:
        return f"a list of {self.count} values"


@dataclass(frozen=True)
class Words:
    """How a message and the help describe a type that is more than its parts."""

    text: str

    def problem(self, value: object) -> str | None:
        """Return None: the words only describe."""
        return None


@runtime_checkable
class Rule(Protocol):
    """What an annotation checks."""

    def problem(self, value: object) -> str | None:
        """Return what is accepted, as the end of a sentence that begins with NAME=VALUE, if a value is refused."""
        ...


def _as_text(value: object) -> object:
    """Return a whole number of a YAML file as the text that was meant."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_path(value: object) -> object:
    text = _as_text(value)
    return expand_home(text) if isinstance(text, str) else text


def _as_files(value: object) -> object:
    """Return the paths of each split from the text that writes them, with the home folder in every path."""
    if isinstance(value, list):
        return [_as_path(one) for one in value]
    splits = read_mapping(str(value)) if is_mapping(value) else value
    return {split: _as_files(paths) for split, paths in splits.items()} if isinstance(splits, dict) else _as_path(splits)


def _as_places(value: object) -> object:
    """Return the place of each map from the text that writes them."""
    return read_mapping(str(value)) if is_mapping(value) else value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str | int) and not isinstance(value, bool) else value


Count = Annotated[int, Range(1)]
WholeNumber = Annotated[int, Range(0)]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, 1, below=True)]
Finite = Annotated[float, Range(-math.inf)]

Text = Annotated[str, BeforeValidator(_as_text)]
FilePath = Annotated[str, BeforeValidator(_as_path), NotEmpty()]
Texts = Annotated[list[Text], BeforeValidator(_as_list), Words("a list of texts")]
Paths = FilePath | Annotated[list[FilePath], NotEmpty(), Words("a list of paths")]
Factors = Annotated[
    dict[str, Finite] | Paths | list[dict[str, object]], BeforeValidator(as_factors), Words("paths, or paths with factors")
]
PatternFactors = Annotated[
    dict[str, Finite], BeforeValidator(as_factors), Words("patterns of names with factors, {network.down.*:0.5}")
]
DataFiles = Annotated[
    Paths | dict[str, Any], BeforeValidator(_as_files), Words("paths, or the paths of each split, {train:a.parquet}")
]
MapPlaces = Annotated[dict[str, Text], BeforeValidator(_as_places), Words("the place of each map, {depth:depth/{stem}.png}")]
OwnObjects = Annotated[
    list[dict[str, Any]],
    BeforeValidator(as_objects),
    Words("a list of own classes, [mypackage.Class], or [{_target_: mypackage.Class, every: 10}]"),
]
Prompts = Annotated[Text | list[Text], Words("a list of texts, one text, or a text file with one a line")]
DrawnPrompts = Annotated[
    Text | list[Text | dict[str, Any]],
    BeforeValidator(as_prompts),
    Words("a list of texts or mappings {prompt: a fox, seed: 7}, one text, or a file of them"),
]


def setting(default: Any, help: str, *, free: bool = False) -> Any:
    """Declare a setting.

    Args:
        default: `...` if it must be given.
        free: whether a continued run may change it, because it does not change what is trained, or only by rounding.
    """
    return Field(default, description=help, json_schema_extra={"free": free})


class Section(BaseModel):
    """Settings that belong together; immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True)


def describe(kind: object, metadata: tuple[object, ...] | list[object] = ()) -> str:
    """Return what values a type accepts, in words."""
    if words := next((one.text for one in metadata if isinstance(one, Words)), None):
        return words
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return describe(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, UnionType):
        parts = [describe(one) for one in arguments if one is not NoneType]
        every = [*dict.fromkeys(parts), *(["null"] if NoneType in arguments else [])]
        return (", or " if any("," in part for part in every) else " or ").join(every)
    if origin is Literal:
        return ", ".join(str(one).lower() if isinstance(one, bool) else str(one) for one in arguments)
    limits = [str(one) for one in metadata if isinstance(one, Rule) and str(one) != "at least -inf"]
    if limits and not any(isinstance(one, Range) for one in metadata):
        return limits[0]
    if origin in (list, tuple):
        return f"a list, each {describe(arguments[0])}"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "one text"}
    named = plain.get(kind, "a mapping") if isinstance(kind, type) else "any value"
    return " ".join([named, *(f"of {limit}" if limit.startswith("at") else limit for limit in limits)])


def problems_of(value: object, kind: object, name: str, metadata: tuple[object, ...] | list[object] = ()) -> Iterator[str]:
    """Yield a message for each value that its type accepts and its annotations do not."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from problems_of(value, arguments[0], name, [*arguments[1:], *metadata])
        return
    if isinstance(value, BaseModel):
        for key, info in type(value).model_fields.items():
            yield from field_problems(getattr(value, key), info, f"{name}.{key}" if name else key)
        return
    if origin in (Union, UnionType):
        fitting = [one for one in arguments if one is not NoneType and _fits(value, one)]
        for one in fitting[:1]:
            yield from problems_of(value, one, name, metadata)
        return
    for rule in metadata:
        if isinstance(rule, Rule) and value is not None and (reason := rule.problem(value)):
            whole = "a whole number of " if kind is int and reason.startswith("must be at") else ""
            typed = int(value) if isinstance(value, float) and value.is_integer() else value
            shown = "" if isinstance(rule, NotEmpty) else f"={typed}"
            yield f"{name}{shown} {reason.replace('must be ', f'must be {whole}')}"
            return
    if isinstance(value, list | tuple):
        for item in value:
            yield from problems_of(item, arguments[0] if arguments else object, name)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from problems_of(item, object, name if origin is dict else f"{name}.{key}")
    elif isinstance(value, float) and not any(isinstance(rule, Range) for rule in metadata) and not math.isfinite(value):
        yield f"{name}={value} must be a finite number; quote it if it is meant as text"


def field_problems(value: object, info: FieldInfo, name: str) -> Iterator[str]:
    """Yield a message for each value of a field that is out of range."""
    yield from problems_of(value, info.annotation, name, info.metadata)


def _fits(value: object, kind: object) -> bool:
    """Return whether a checked value is of this member of a union."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _fits(value, get_args(kind)[0])
    if origin is Literal:
        return value in get_args(kind)
    plain = origin or kind
    if plain is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if plain is int and isinstance(value, bool):
        return False
    return not isinstance(plain, type) or isinstance(value, plain)


def members(kind: object) -> list[object]:
    """Return the types of a union, or the type itself, without annotations."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return members(arguments[0])
    if origin in (Union, UnionType):
        return [member for one in arguments for member in members(one)]
    return [kind]


def takes_text(kind: object) -> bool:
    """Return whether a setting takes one text, and neither numbers nor switches."""
    found = members(kind)
    in_lists = any(get_origin(one) is list and takes_text(get_args(one)[0]) for one in found)
    return (str in found or in_lists) and not {int, float, bool, Any} & {*_hashable(found)}


def takes_container(kind: object, container: type[list[Any] | dict[Any, Any]]) -> bool:
    """Return whether a setting takes a list, or a mapping."""
    return any(member is container or get_origin(member) is container for member in members(kind))


def takes_null(kind: object) -> bool:
    """Return whether a setting may be null."""
    return NoneType in members(kind) or None in members(kind)


def _hashable(found: list[object]) -> list[object]:
    return [one for one in found if isinstance(one, type) or one is Any]
