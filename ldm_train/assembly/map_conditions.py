"""Which maps of pictures the conditions of a run need, as the source, the survey and the cache take them."""

from collections.abc import Sequence
from dataclasses import fields

from ldm_train.data.cache.manifest import MAPS_KEY
from ldm_train.data.pictures.map_values import MAPS_VERSION, MapSpec, describe_specs
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.util.safe_json import Json
from ldm_train.util.text import as_word, format_value

MAP_TARGET, INPAINT_TARGET = "ldm_train.conditioners.map.Map", "ldm_train.conditioners.inpaint.Inpaint"
MAPS_VERSION_KEY = "maps_version"


def map_specs(config: EncodeSettings | TrainSettings) -> list[MapSpec]:
    """Return what each map is that is stored with a picture because a condition needs it.

    Raises:
        ValueError: two have the same name.
    """
    specs = [spec for part in config.conditions if (spec := read_spec(part)) is not None]
    names = [spec.name for spec in specs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"conditions: two have the name {twice}; give one of them another name=…")
    return specs


def read_spec(part: Part) -> MapSpec | None:
    """Return what the map of a condition is; None if it needs none."""
    if part.target == INPAINT_TARGET:
        return MapSpec(part.get("name", "inpaint"), encoded=True, masks=part.get("masks", 4))  # the defaults of Inpaint
    names = [field.name for field in fields(MapSpec) if field.name != "masks"]
    given = {name: part.get(name) for name in names if part.get(name) is not None}
    return MapSpec(**given) if part.target == MAP_TARGET else None


def file_specs(config: EncodeSettings | TrainSettings) -> list[MapSpec]:
    """Return what each map is that the source brings."""
    return [spec for spec in map_specs(config) if not spec.masks]


def words_of_maps(specs: Sequence[MapSpec]) -> list[str]:
    """Return the words of `encode` that store these maps; none without maps."""
    maps = [
        f"{{inpaint:{{name:{spec.name},masks:{spec.masks}}}}}"
        if spec.masks
        else f"{{map:{{name:{spec.name},channels:{spec.channels},nearest:{format_value(spec.nearest)},"
        f"encoded:{format_value(spec.encoded)}{',normalized:true' if spec.normalized else ''}}}}}"
        for spec in specs
    ]
    return [as_word("conditions", f"[{','.join(maps)}]")] if maps else []


def describe_maps(specs: Sequence[MapSpec]) -> dict[str, Json]:
    """Return the settings that stored maps depend on, in plain values; none without maps."""
    return {MAPS_KEY: describe_specs(specs), MAPS_VERSION_KEY: MAPS_VERSION} if specs else {}
