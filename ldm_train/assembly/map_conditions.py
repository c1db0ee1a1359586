"""Which maps of pictures the conditions of a run need, as the source, the survey and the cache take them."""

from collections.abc import Sequence
from dataclasses import fields

from ldm_train.data.cache.manifest import MAPS_KEY
from ldm_train.data.pictures.map_values import MAPS_VERSION, MapSpec, describe_specs
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.util.safe_json import Json
from ldm_train.util.text import as_word, format_value

MAP_TARGET = "ldm_train.conditioners.map.Map"
MAPS_VERSION_KEY = "maps_version"


def map_specs(config: EncodeSettings | TrainSettings) -> list[MapSpec]:
    """Return what each map is that a condition needs."""
    parts = [part for part in config.conditions if part.target == MAP_TARGET]
    names = [field.name for field in fields(MapSpec)]
    return [MapSpec(**{name: part.get(name) for name in names if part.get(name) is not None}) for part in parts]


def words_of_maps(specs: Sequence[MapSpec]) -> list[str]:
    """Return the words of `encode` that store these maps; none without maps."""
    maps = [
        f"{{map:{{name:{spec.name},channels:{spec.channels},nearest:{format_value(spec.nearest)},"
        f"encoded:{format_value(spec.encoded)}}}}}"
        for spec in specs
    ]
    return [as_word("conditions", f"[{','.join(maps)}]")] if maps else []


def describe_maps(specs: Sequence[MapSpec]) -> dict[str, Json]:
    """Return the settings that stored maps depend on, in plain values; none without maps."""
    return {MAPS_KEY: describe_specs(specs), MAPS_VERSION_KEY: MAPS_VERSION} if specs else {}
