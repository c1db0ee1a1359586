"""Plain settings to typed ones: unknown names, missing values, wrong types, and values out of range.

A wrong name or type ends the reading (`ConfigError`); values out of range are all listed, since `check` reports each.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ldm_train.settings.plot_axes import axis_problems
from ldm_train.settings.schema.commands import SCHEMAS, argument_kind, kind_of
from ldm_train.settings.schema.kinds import describe, field_problems, problems_of
from ldm_train.settings.schema.largest_values import too_large
from ldm_train.settings.schema.listed_parts import list_members
from ldm_train.settings.schema.options import (
    MIXED_16,
    PART_LISTS,
    TARGET,
    CommandSettings,
    Part,
    TrainerSettings,
    dict_settings,
)
from ldm_train.settings.shipped import ConfigError
from ldm_train.util.text import format_value

Origin = Callable[[str], str]  # of a setting's full name: " in FILE", or nothing
STRICT = ConfigDict(strict=True)


def validate_settings(verb: str, values: Mapping[str, Any], origin: Origin = lambda name: "") -> CommandSettings:
    """Return the typed settings of a command.

    Args:
        values: as a composed or a stored config holds them, names already known to be the command's.

    Raises:
        ConfigError: a value of another type; it names the setting, the value and what is accepted.
    """
    try:
        settings = SCHEMAS[verb].model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(verb, values, error, origin)) from None
    return settings.model_copy(
        update={name: _checked(name, part, origin) for name, part in parts_of(settings).items()}
        | {
            name: [_checked(group, part, origin, f"{name}[{number}]") for number, part in enumerate(getattr(settings, name))]
            for name, group in lists_of(settings).items()
        }
    )


def parts_of(settings: CommandSettings) -> dict[str, Part]:
    """Return the chosen options of a command's groups."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {name: value for name, value in values.items() if isinstance(value, Part)}


def lists_of(settings: CommandSettings) -> dict[str, str]:
    """Return the settings of a command that list options, and the group of these."""
    return {name: group for name, group in PART_LISTS.items() if name in type(settings).model_fields}


def out_of_range(settings: CommandSettings) -> list[str]:
    """Return a message for each value that no command can use."""
    ranges = list(_range_problems(settings))
    named = {reason.partition("=")[0] for reason in ranges}
    large = [reason for reason in too_large(_numbers(settings)) if reason.partition("=")[0] not in named]
    return [*ranges, *large, *_mixed_on_cpu(settings), *axis_problems(settings)]


def _range_problems(settings: CommandSettings) -> Iterator[str]:
    for name, info in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Part):
            yield from _part_problems(name, value, name)
        elif name in PART_LISTS:
            for number, part in enumerate(value):
                yield from _part_problems(PART_LISTS[name], part, f"{name}[{number}]")
        elif isinstance(value, TrainerSettings):
            yield from problems_of(value, TrainerSettings, name)
        else:
            yield from field_problems(value, info, name)


def _part_problems(group: str, part: Part, name: str) -> Iterator[str]:
    for key, argument in (part.arguments | part.kept).items():
        yield from problems_of(argument, argument_kind(group, key, part.target), f"{name}.{key}")
    for key, items in list_members(group, part).items():
        for number, item in enumerate(items):
            yield from _part_problems(group, item, f"{name}.{key}[{number}]")


def _numbers(settings: CommandSettings) -> Iterator[tuple[str, object]]:
    """Yield the values of all settings by their full names; each value of a list with the list's name."""
    for name, value in dict_settings(settings.as_plain()):
        for one in value if isinstance(value, list) else [value]:
            yield name, one


def _mixed_on_cpu(settings: CommandSettings) -> Iterator[str]:
    trainer = getattr(settings, "trainer", None)
    if trainer is not None and trainer.accelerator == "cpu" and trainer.precision in MIXED_16:
        yield on_a_cpu(trainer.precision)


def on_a_cpu(precision: object) -> str:
    """Return why 16-bit floats with a scaled loss are refused on a CPU."""
    return (
        f"trainer.precision={precision} needs a GPU: on a CPU Lightning would compute in bf16-mixed instead; "
        "choose trainer.precision=bf16-mixed or 32-true"
    )


def _checked(group: str, part: Part, origin: Origin, name: str = "") -> Part:
    """Return a part with its arguments converted to the types of its constructor.

    Args:
        name: of the part in messages, if not the group's.
    """

    def convert(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: _argument(f"{name or group}.{key}", value, argument_kind(group, key, part.target), origin)
            for key, value in values.items()
        }

    for key, items in list_members(group, part).items():
        for number, item in enumerate(items):
            _checked(group, item, origin, f"{name or group}.{key}[{number}]")
    return Part(part.target, convert(part.arguments), part.call, convert(part.kept))


def _argument(name: str, value: object, kind: Any, origin: Origin) -> object:
    if isinstance(value, Mapping) and TARGET in value:
        return value
    try:
        return TypeAdapter(kind, config=STRICT).validate_python(value)
    except ValidationError:
        raise ConfigError(not_accepted(name, value, describe(kind), origin)) from None


def _explain(verb: str, values: Mapping[str, Any], error: ValidationError, origin: Origin) -> str:
    """Return a message for the first thing that pydantic found wrong."""
    found = error.errors(include_url=False)[0]
    name = _setting_name(verb, [str(step) for step in found["loc"]])
    value: Any = values
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if found["type"] == "missing":
        return f"{verb} needs {name}=…"
    kind = kind_of(verb, name, {})
    return not_accepted(name, value, describe(*kind) if kind else "something else", origin)


def _setting_name(verb: str, steps: list[str]) -> str:
    """Return the setting that a location of pydantic's is in: what follows are members of unions and places in lists."""
    model: Any = SCHEMAS[verb]
    names: list[str] = []
    for step in steps:
        fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
        if step not in fields:
            break
        names.append(step)
        model = fields[step].annotation
    return ".".join(names)


def not_accepted(name: str, value: object, accepted: str, origin: Origin = lambda name: "") -> str:
    """Return the message for a value of another type."""
    return f"{name}={format_value(value)}{origin(name)} is not accepted; {name} takes {accepted}"
