"""Which maps of pictures the conditions of a run need, as the source, the survey and the cache take them."""

from collections.abc import Sequence
from dataclasses import fields

from ldm_train.data.cache.manifest import MAPS_KEY
from ldm_train.data.pictures.map_values import MAPS_VERSION, MapSpec, describe_specs
from ldm_train.settings.schema.training import SourceSettings
from ldm_train.util.safe_json import Json

MAP_TARGET = "ldm_train.conditioners.map.Map"
MAPS_VERSION_KEY = "maps_version"


def map_specs(config: SourceSettings) -> list[MapSpec]:
    """Return what each map is that a condition needs."""
    parts = [part for part in getattr(config, "conditions", ()) if part.target == MAP_TARGET]
    names = [field.name for field in fields(MapSpec)]
    return [MapSpec(**{name: part.get(name) for name in names if part.get(name) is not None}) for part in parts]


def describe_maps(specs: Sequence[MapSpec]) -> dict[str, Json]:
    """Return the settings that stored maps depend on, in plain values; none without maps."""
    return {MAPS_KEY: describe_specs(specs), MAPS_VERSION_KEY: MAPS_VERSION} if specs else {}
