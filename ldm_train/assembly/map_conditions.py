"""Which maps of pictures the conditions of a run need, as the source, the survey and the cache take them."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ldm_train.data.cache.manifest import MAPS_KEY, Manifest
from ldm_train.data.pictures.map_values import MAPS_VERSION, MapSpec, TowerSpec, describe_specs, refuse_two_pictures
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.util.safe_json import Json
from ldm_train.util.text import as_word, format_value
from ldm_train.weights.fingerprint import name_weights

WIDTH = 4  # of the latents and tokens of a condition that is built only to be asked for its map
SHIPPED = "ldm_train."
MAP_TARGET, INPAINT_TARGET = "ldm_train.conditioners.map.Map", "ldm_train.conditioners.inpaint.Inpaint"
REDUCED_TARGET = "ldm_train.conditioners.low_resolution.LowResolution"
PICTURE_TARGET = "ldm_train.conditioners.picture.Picture"
MAPS_VERSION_KEY = "maps_version"
PICTURE_DEFAULTS = {"name": "picture", "model": "ViT-B-32", "weights": "laion2b_s34b_b79k", "own": True}  # of Picture
MAP_FLAGS = ("nearest", "encoded", "normalized", "control")
RESTORED = {"channels", "masks", "reduced", "own", *MAP_FLAGS}


def map_specs(config: EncodeSettings | TrainSettings) -> list[MapSpec]:
    """Return what each map is that is stored with a picture because a condition needs it.

    Raises:
        ValueError: two have the same name, or each take another `picture=FILE`.
    """
    specs = [spec for part in config.conditions if (spec := read_spec(part)) is not None]
    if config.loss_mask is not None and MapSpec(config.loss_mask) not in specs:  # a condition may be of the same map
        specs.append(MapSpec(config.loss_mask))
    names = [spec.name for spec in specs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        of_mask = f", or loss_mask={twice} is of another kind than the condition" if twice == config.loss_mask else ""
        raise ValueError(f"conditions: two have the name {twice}{of_mask}; give one of them another name=…")
    refuse_two_pictures([spec.name for spec in specs if spec.reduced], [spec.name for spec in specs if spec.masks])
    return specs


def read_spec(part: Part) -> MapSpec | None:
    """Return what the map of a condition is; None if it needs none.

    An own condition that is derived from `Map`, `Inpaint` or `LowResolution` is built, because only its class knows.
    """
    if part.target == INPAINT_TARGET:
        return MapSpec(part.get("name", "inpaint"), encoded=True, masks=part.get("masks", 4))  # the defaults of Inpaint
    if part.target == REDUCED_TARGET:
        return MapSpec(part.get("name", "low_resolution"), reduced=part.get("factor", 4))  # the defaults of LowResolution
    if part.target == PICTURE_TARGET:
        given = {name: part.get(name, value) for name, value in PICTURE_DEFAULTS.items()}
        tower = TowerSpec(given["model"], given["weights"], name_weights(given["weights"]))
        return MapSpec(given["name"], tower=tower, own=given["own"])
    names = [field.name for field in fields(MapSpec) if field.name not in ("masks", "reduced", "tower", "own")]
    given = {name: part.get(name) for name in names if part.get(name) is not None}
    if part.target == MAP_TARGET:
        return MapSpec(**given)
    return None if part.target.startswith(SHIPPED) else read_own_spec(part)


def read_own_spec(part: Part) -> MapSpec | None:
    """Return what the map of an own condition is; None if its class is derived from none that is stored."""
    # Imported here because these import torch, and commands that encode start without it.
    from ldm_train.assembly.parts import build_condition, find_class
    from ldm_train.conditioners.inpaint import Inpaint
    from ldm_train.conditioners.low_resolution import LowResolution
    from ldm_train.conditioners.map import Map

    kind = find_class(part)
    if kind is not None and not issubclass(kind, Map | Inpaint | LowResolution):
        return None
    made = build_condition(
        part, {"latent_channels": WIDTH, "latent_factor": WIDTH, "to_model": None, "context_width": WIDTH}
    )
    if isinstance(made, Inpaint):
        return MapSpec(made.name, encoded=True, masks=made.masks)
    if isinstance(made, LowResolution):
        return MapSpec(made.name, reduced=made.factor)
    if not isinstance(made, Map):
        return None
    return MapSpec(made.name, made.channels, made.nearest, made.encoded, normalized=made.normalized, control=made.control)


def file_specs(config: EncodeSettings | TrainSettings) -> list[MapSpec]:
    """Return what each map is that the source brings."""
    return [spec for spec in map_specs(config) if spec.in_file]


def words_of_maps(config: EncodeSettings | TrainSettings) -> list[str]:
    """Return the words of `encode` that store the maps that settings need; none without maps."""
    mask = [] if config.loss_mask is None else [as_word("loss_mask", config.loss_mask)]
    specs = [spec for part in config.conditions if (spec := read_spec(part)) is not None]
    maps = [word_of_map(spec) for spec in specs]
    files = [f"{spec.name}:…" for spec in specs if spec.in_file]
    return [
        *([as_word("source.maps", f"{{{','.join(files)}}}")] if files else []),
        *([as_word("conditions", f"[{','.join(maps)}]")] if maps else []),
        *mask,
    ]


def word_of_map(spec: MapSpec) -> str:
    """Return the condition, as the command line has it, that stores a map."""
    if spec.masks:
        return f"{{inpaint:{{name:{spec.name},masks:{spec.masks}}}}}"
    if spec.reduced:
        return f"{{low_resolution:{{name:{spec.name},factor:{spec.reduced}}}}}"
    if spec.tower is not None:
        tower = f"model:{spec.tower.model},weights:{spec.tower.weights}"
        return f"{{picture:{{name:{spec.name},own:{format_value(spec.own)},{tower}}}}}"
    channels = "" if spec.channels == 1 else f",channels:{spec.channels}"
    flags = "".join(f",{name}:true" for name in MAP_FLAGS if getattr(spec, name))
    return f"{{map:{{name:{spec.name}{channels}{flags}}}}}"


def suggest_fitting_settings(config: TrainSettings, manifest: Manifest) -> list[str]:
    """Return what to change in a run's settings so that it takes a cache's size and maps as they are."""
    size = [f"image_size={manifest.image_size}"] if config.image_size != manifest.image_size else []
    expected, stored = {spec.name for spec in map_specs(config)}, manifest.expected_of_a_run[MAPS_KEY]
    assert isinstance(stored, dict)
    missing = [word_of_map(restore_spec(name, one)) for name, one in stored.items() if name not in expected]
    return [*size, *(f"add {word} to conditions=[…]" for word in missing)]


def restore_spec(name: str, identity: Json) -> MapSpec:
    """Return a map as a cache describes it, with the default tower if it is a tower's."""
    assert isinstance(identity, dict)
    known: dict[str, Any] = {key: value for key, value in identity.items() if key in RESTORED}
    tower = TowerSpec(str(identity["model"]), str(PICTURE_DEFAULTS["weights"]), "") if "model" in identity else None
    return MapSpec(name, tower=tower, **known)


def describe_maps(specs: Sequence[MapSpec]) -> dict[str, Json]:
    """Return the settings that stored maps depend on, in plain values; none without maps."""
    return {MAPS_KEY: describe_specs(specs), MAPS_VERSION_KEY: MAPS_VERSION} if specs else {}
