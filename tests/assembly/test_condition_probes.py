"""Own conditions are called where they are built and once with the data; what they return wrongly is named."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ldm_train.assembly.condition_probes import probe_condition, probe_reading
from ldm_train.assembly.map_conditions import read_spec
from ldm_train.assembly.number_columns import fill_numbers
from ldm_train.assembly.probing import attempt
from ldm_train.conditioners.condition import Condition
from ldm_train.data.pictures.map_values import MapSpec
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.trust import Grants, granted
from ldm_train.types import Conditioning, Given


class Own(Condition):
    vector_width = 3

    def __init__(self, **found: object) -> None:
        super().__init__("own", dropout=0.1)
        self.identity = {"kind": "own"}
        self.found = {
            "vector": lambda values: Conditioning(vector=values[:, None].expand(-1, 3)),
            "absent": lambda count: Given(torch.zeros(count), torch.zeros(count, dtype=torch.bool)),
            "read": lambda count: Given(torch.ones(count), torch.ones(count, dtype=torch.bool)),
        } | found

    def read(self, examples: object) -> Callable[[Tensor, Tensor], Given]:
        return lambda chosen, views: self.found["read"](len(chosen))  # type: ignore[operator,no-any-return]

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> Given:
        return self.found["absent"](count)  # type: ignore[operator,no-any-return]

    def forward(self, values: Tensor, kept: Tensor) -> Conditioning:
        return self.found["vector"](values)  # type: ignore[operator,no-any-return]


def probe(condition: Own) -> None:
    attempt("condition._target_=mine.Own", lambda: probe_condition(condition))
    probe_reading([condition], [Part("mine.Own", {})], SimpleNamespace())  # type: ignore[arg-type]


def test_what_fits_passes() -> None:
    probe(Own())


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"vector": lambda values: values}, "Conditioning.*Tensor"),
        ({"vector": lambda values: Conditioning()}, "vector_width=3.*None"),
        ({"vector": lambda values: Conditioning(vector=values[:, None])}, r"\(2, 3\).*\(2, 1\)"),
        ({"vector": lambda values: Conditioning(vector=values[:, None].expand(-1, 3) / 0)}, "finite"),
        ({"vector": lambda values: values.missing}, "AttributeError"),
        ({"vector": lambda values: Conditioning(tokens=values.view(-1, 1, 1))}, "token_width=0"),
        ({"absent": lambda count: None}, "absent.*Given.*None"),
        ({"absent": lambda count: Given(torch.zeros(count), torch.zeros(count))}, "kept.*torch.bool.*float32"),
        ({"read": lambda count: torch.zeros(count)}, "read.*Given.*Tensor"),
        ({"read": lambda count: Given(torch.zeros(1), torch.zeros(1, dtype=torch.bool))}, r"read.*\(2,\).*\(1,\)"),
        ({"read": lambda count: Given(torch.zeros(count, 4), torch.ones(count, dtype=torch.bool))}, r"absent.*\(2, 4\)"),
        ({"read": lambda count: float("old")}, "ValueError.*old"),
    ],
)
def test_what_does_not_fit_is_named(found: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=rf"condition\._target_=mine\.Own.*{says}"):
        probe(Own(**found))


class WithTokens(Own):
    token_width, vector_width = 5, 0


@pytest.mark.parametrize(
    ("tokens", "mask", "says"),
    [
        ((2, 3, 5), (2, 3), None),
        ((2, 3, 5), None, None),
        ((2, 3, 4), None, r"\(2, 3, 5\).*\(2, 3, 4\)"),
        ((2, 5), None, r"\(2, 5, 5\).*\(2, 5\)"),
        ((2, 3, 5), (2, 4), r"mask.*\(2, 3\).*\(2, 4\)"),
        (None, None, "token_width=5.*None"),
        (None, (2, 3), "mask"),
    ],
)
def test_tokens_have_the_width_that_is_announced(
    tokens: tuple[int, ...] | None, mask: tuple[int, ...] | None, says: str | None
) -> None:
    found = Conditioning(
        tokens=None if tokens is None else torch.ones(tokens),
        mask=None if mask is None else torch.ones(mask, dtype=torch.bool),
    )
    condition = WithTokens(vector=lambda values: found)
    if says is None:
        probe(condition)
    else:
        with pytest.raises(ValueError, match=rf"condition\._target_=mine\.Own.*{says}"):
            probe(condition)


def test_what_the_conditioning_depends_on_is_plain() -> None:
    for identity in (None, {"weights": torch.zeros(1)}):
        condition = Own()
        condition.identity = identity  # type: ignore[assignment]
        with pytest.raises(ValueError, match="identity"):
            probe(condition)


@pytest.mark.parametrize(
    ("word", "base"), [("takes_map", "Map"), ("takes_mask", "Inpaint"), ("takes_picture", "LowResolution")]
)
def test_files_of_maps_and_masks_need_a_class_that_is_derived_from_a_shipped_one(word: str, base: str) -> None:
    condition = Own()
    setattr(condition, word, True)
    with pytest.raises(ValueError, match=rf"{word}.*\.{base}"):
        probe(condition)


MODULE = """
import torch
from ldm_train.conditioners.inpaint import Inpaint
from ldm_train.conditioners.low_resolution import LowResolution
from ldm_train.conditioners.map import Map
from ldm_train.conditioners.condition import Condition, drop
from ldm_train.conditioners.number import Number
from ldm_train.types import Conditioning

class OneHot(Map):
    def __init__(self, *, name, labels):
        super().__init__(name=name, nearest=True)
        self.map_channels = labels

    def forward(self, values, kept):
        numbers = (values[:, 0] * 3).round().long().clamp(0, self.map_channels - 1)
        found = torch.nn.functional.one_hot(numbers, self.map_channels).permute(0, 3, 1, 2).float()
        return Conditioning(maps=drop(found, kept))

class Holes(Inpaint):
    pass

class Words(Condition):
    def __init__(self, context_width):
        raise AssertionError("needs no map, and is not built")

class Year(Number):
    def __init__(self, *, column, low=None, high=None):
        super().__init__(column, low=low, high=high)

class Fixed(Number):
    def __init__(self):
        super().__init__("year", low=0, high=1)

class Small(LowResolution):
    def __init__(self):
        super().__init__(name="small", factor=2)

class Stretched(Map):
    def __init__(self):
        super().__init__(name="far", normalized=True)
"""


@pytest.fixture
def own_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_maps.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own_maps")
def test_own_classes_derived_from_number_get_the_range_of_their_data_if_they_take_one() -> None:
    parts = [Part("own_maps.Year", {"column": "year"}), Part("own_maps.Fixed", {})]
    config = compose_as(TrainSettings, ["cache=c", "run_dir=r"]).with_values(conditions=parts)
    with granted(Grants(("own_maps",))):
        year, fixed = fill_numbers(config, {"year": ["1990", "2010"]}.__getitem__).conditions
    assert (year.get("low"), year.get("high")) == (1990, 2010)
    assert fixed == parts[1]


@pytest.mark.usefixtures("own_maps")
def test_own_classes_derived_from_stored_ones_are_stored_as_these_are() -> None:
    with granted(Grants(("own_maps",))):
        found = [
            read_spec(Part(f"own_maps.{name}", arguments))
            for name, arguments in (
                ("OneHot", {"name": "kind", "labels": 4}),
                ("Holes", {"masks": 2}),
                ("Words", {}),
                ("Stretched", {}),
                ("Small", {}),
            )
        ]
    assert found == [
        MapSpec("kind", nearest=True),
        MapSpec("inpaint", encoded=True, masks=2),
        None,
        MapSpec("far", normalized=True),
        MapSpec("small", reduced=2),
    ]
