"""Attributes of own objects that a run calculates with are of the kind that it needs, or named."""

from types import SimpleNamespace

import pytest

from ldm_train.settings.own_attributes import ATTRIBUTES, check_attributes

RIGHT: dict[str, dict[str, object]] = {
    "condition": {"vector_width": 2, "map_channels": 0, "unit": 1, "identity": {"kind": "angle"}},
    "autoencoder": {"channels": 4, "factor": 8, "shift": 0, "scale": 0.5, "identity": {"kind": "own", "sides": [1, 2]}},
    "text_encoder": {
        **{"context_width": None, "vector_width": 8, "capacity": 3, "trained": False},
        **{"identity": {}, "computation": {"width": 3}},
    },
    "schedule": {"start": 0.001, "end": 1},
    "features": {"name": "own", "size": 3},
    "crop": {"views": 1, "identity": {"kind": "own"}},
    "network": {"divisor": 2},
    "source": {"notes": []},
}


@pytest.mark.parametrize("group", ATTRIBUTES)
def test_the_right_kinds_pass(group: str) -> None:
    check_attributes(SimpleNamespace(**RIGHT[group]), "own.Thing", group)


def test_a_network_needs_no_attribute() -> None:
    check_attributes(SimpleNamespace(), "own.Thing", "network")


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("autoencoder", "channels", "4"),
        ("autoencoder", "channels", True),
        ("autoencoder", "factor", 0),
        ("autoencoder", "factor", 2.0),
        ("autoencoder", "shift", float("nan")),
        ("autoencoder", "scale", 0.0),
        ("autoencoder", "scale", [1.0]),
        ("autoencoder", "identity", None),
        ("autoencoder", "identity", {"a": {1}}),
        ("condition", "vector_width", None),
        ("condition", "map_channels", 1.5),
        ("text_encoder", "context_width", 0),
        ("text_encoder", "capacity", None),
        ("text_encoder", "trained", 1),
        ("text_encoder", "computation", []),
        ("schedule", "end", "1"),
        ("features", "name", ""),
        ("features", "size", "3"),
        ("crop", "identity", None),
        ("network", "divisor", 0),
        ("network", "divisor", "four"),
        ("source", "notes", None),
    ],
)
def test_another_kind_is_named_with_its_value(group: str, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{group}\._target_=own\.Thing: {name} must be ") as error:
        check_attributes(SimpleNamespace(**(RIGHT[group] | {name: value})), "own.Thing", group)
    assert repr(value) in str(error.value)


def test_an_attribute_that_fails_is_named() -> None:
    class Failing:
        @property
        def divisor(self) -> int:
            raise RuntimeError("no divisor")

    with pytest.raises(ValueError, match=r"network\._target_=own\.Thing: divisor .*RuntimeError: no divisor"):
        check_attributes(Failing(), "own.Thing", "network")
