"""Which settings each command has, by name: their kinds, defaults and help."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic.fields import FieldInfo

from ldm_train.settings.schema.kinds import MISSING, FilePath, Paths, Section, takes_container
from ldm_train.settings.schema.options import ARGUMENTS, FREE, CommandSettings, TrainerSettings, list_part_groups
from ldm_train.settings.schema.training import AutoencoderTrainingSettings, CheckSettings, TrainSettings
from ldm_train.settings.schema.using import (
    EncodeSettings,
    EvaluateSettings,
    ExplainSettings,
    ExportSettings,
    FitSettings,
    PlaygroundSettings,
    ReportSettings,
    RunsSettings,
    SampleSettings,
    TokensSettings,
)
from ldm_train.settings.signatures import signature

SCHEMAS: dict[str, type[CommandSettings]] = {
    "fit": FitSettings,
    "check": CheckSettings,
    "encode": EncodeSettings,
    "train": TrainSettings,
    "sample": SampleSettings,
    "evaluate": EvaluateSettings,
    "export": ExportSettings,
    "report": ReportSettings,
    "runs": RunsSettings,
    "tokens": TokensSettings,
    "explain": ExplainSettings,
    "playground": PlaygroundSettings,
    "train_autoencoder": AutoencoderTrainingSettings,
}
CONTINUED = ("train", "train_autoencoder")  # commands that continue a run


@cache
def own_settings(verb: str) -> dict[str, FieldInfo]:
    """Return a command's own settings, without its groups, by their full names; a section's come after the section."""
    groups = list_part_groups(SCHEMAS[verb])
    return {name: info for name, info in _fields(SCHEMAS[verb], "") if name.partition(".")[0] not in groups}


def default_values(verb: str) -> dict[str, Any]:
    """Return the defaults of a command's own settings as a config holds them; ??? is a setting that must be given."""
    groups = list_part_groups(SCHEMAS[verb])
    return {name: _default(info) for name, info in SCHEMAS[verb].model_fields.items() if name not in groups}


def mappings_of(verb: str) -> list[str]:
    """Return the settings of a command that are mappings with names of one's own, such as `number.age=30`."""
    return [name for name, info in own_settings(verb).items() if isinstance(info.default, dict)]


def kind_of(verb: str, name: str, targets: dict[str, str]) -> tuple[object, list[object]] | None:
    """Return the kind of a setting and its annotations; None if nothing is known of it.

    Args:
        name: its full name, such as `pictures.every` or `network.weights`.
        targets: the constructor of each group that a setting may be of.
    """
    if (info := own_settings(verb).get(name)) is not None:
        return info.annotation, info.metadata
    group, _, key = name.partition(".")
    if group not in list_part_groups(SCHEMAS[verb]) or not key:
        return None
    if group == "trainer":
        info = TrainerSettings.model_fields.get(key)
        return None if info is None else (info.annotation, info.metadata)
    return argument_kind(group, key, targets.get(group, "")), []


def argument_kind(group: str, name: str, target: str) -> object:
    """Return the kind of a constructor's argument: from the table of `options`, else from its signature."""
    found = signature(target)
    written = Any if found is None else found.kinds.get(name, Any)
    kind = ARGUMENTS.get(f"{group}.{name}", written)
    return Paths if kind is FilePath and takes_container(written, list) else kind


def may_change(verb: str, name: str) -> bool:
    """Return whether a continued run may change a setting, or the part of one with this full name."""
    words = name.split(".")
    prefixes = [".".join(words[:count]) for count in range(1, len(words) + 1)]
    own = own_settings(verb)
    if any(prefix in FREE for prefix in prefixes):
        return True
    if words[0] == "trainer":
        info = TrainerSettings.model_fields.get(words[-1])
        return info is not None and _is_free(info)
    return any(prefix in own and _is_free(own[prefix]) for prefix in prefixes)


def _is_free(info: FieldInfo) -> bool:
    return isinstance(info.json_schema_extra, dict) and bool(info.json_schema_extra.get("free"))


def _fields(section: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in section.model_fields.items():
        yield f"{prefix}{name}", info
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from _fields(info.annotation, f"{prefix}{name}.")


def _default(info: FieldInfo) -> object:
    if info.is_required():
        return MISSING
    return info.default.model_dump() if isinstance(info.default, Section) else info.default
