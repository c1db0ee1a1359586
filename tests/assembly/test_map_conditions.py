"""What a run whose conditions do not fit a cache is advised to change."""

from types import SimpleNamespace
from typing import Any

import pytest

from ldm_train.assembly.map_conditions import (
    INPAINT_TARGET,
    MAP_TARGET,
    REDUCED_TARGET,
    map_specs,
    read_spec,
    restore_spec,
    suggest_fitting_settings,
    words_of_maps,
)
from ldm_train.data.pictures.map_values import refuse_two_pictures
from ldm_train.settings.schema.options import Part

PARTS = {
    "inpaint": Part(INPAINT_TARGET, {"name": "hole", "masks": 3}),
    "low_resolution": Part(REDUCED_TARGET, {"factor": 2}),
    "map": Part(MAP_TARGET, {"name": "depth", "channels": 3, "nearest": True}),
    "control": Part(MAP_TARGET, {"name": "edge", "control": True}),
}
FITTING = [part for name, part in PARTS.items() if name != "inpaint"]


def settings(*parts: Part) -> Any:
    return SimpleNamespace(conditions=list(parts), loss_mask=None, image_size=16)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_map_that_a_cache_describes_is_the_map_that_its_condition_needs(part: Part) -> None:
    spec = read_spec(part)
    assert spec is not None
    assert restore_spec(spec.name, spec.identity).identity == spec.identity


def test_a_run_is_advised_to_take_the_caches_size_and_its_maps() -> None:
    specs = [spec for part in PARTS.values() if (spec := read_spec(part)) is not None]
    manifest: Any = SimpleNamespace(image_size=32, expected_of_a_run={"maps": {spec.name: spec.identity for spec in specs}})
    size, *maps = suggest_fitting_settings(settings(PARTS["map"], PARTS["control"]), manifest)
    assert size == "image_size=32"
    assert [word for line in maps for word in ("hole", "low_resolution", "depth", "edge") if word in line] == [
        "hole",
        "low_resolution",
    ]
    manifest.image_size = 16
    del manifest.expected_of_a_run["maps"]["hole"]
    assert suggest_fitting_settings(settings(*FITTING), manifest) == []


def test_maps_in_files_are_named_in_the_command_that_encodes_them() -> None:
    assert not any(word.startswith("source.maps") for word in words_of_maps(settings(PARTS["inpaint"])))
    source, conditions = words_of_maps(settings(*FITTING))
    assert "source.maps={depth:…,edge:…}" in source
    assert "{map:{name:edge,control:true}}" in conditions


@pytest.mark.parametrize("other", [PARTS["inpaint"], Part(REDUCED_TARGET, {"name": "smaller"})], ids=["hole", "small"])
def test_two_conditions_do_not_each_take_another_picture(other: Part) -> None:
    with pytest.raises(ValueError, match=r"low_resolution and (hole|smaller).*picture=FILE"):
        map_specs(settings(PARTS["low_resolution"], other))
    for one in (PARTS["low_resolution"], other):
        assert len(map_specs(settings(one, PARTS["map"]))) == 2
    refuse_two_pictures([], ["hole", "other"])  # both fill the same hole of the same picture
