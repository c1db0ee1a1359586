"""Conditions besides the caption: what each gives, what it is without a value, and all of them together."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from pytorch_lightning.plugins.precision import HalfPrecision
from torch import Tensor
from torch.testing import assert_close

from ldm_train.assembly.given_conditions import read_map_file
from ldm_train.conditioners.condition import Condition, Conditions
from ldm_train.conditioners.inpaint import Inpaint
from ldm_train.conditioners.map import Map
from ldm_train.conditioners.number import Number, describe_missing, find_range, list_number_columns
from ldm_train.conditioners.picture_size import PictureSize
from ldm_train.networks.embeddings import embed_sinusoidal
from ldm_train.types import CaptionBatch, Conditioning, Given, LatentBatch, Moments
from ldm_train.util.messages import collecting_messages

KEPT = torch.tensor([True, False])
HERE = {"size": (16, 24), "latent_size": (4, 6)}


@dataclass
class Index:
    size: Tensor
    views: Tensor


@dataclass
class Examples:
    """Three examples as a cache has them."""

    ages: Sequence[str | None] = ("10", "30", "20")

    index = Index(
        torch.tensor([[100, 80], [64, 64], [50, 90]]),
        torch.tensor([[[40, 32, 4, 8, 0]], [[32, 32, 0, 0, 1]], [[32, 58, 0, 20, 1]]]),
    )
    shapes = torch.tensor([[32, 24], [32, 32], [32, 32]])

    def column(self, name: str) -> Iterator[str | None]:
        return iter(self.ages)

    def maps(self, name: str, examples: Tensor, views: Tensor, masks: Tensor | None = None) -> Tensor:
        return torch.full((len(examples), 1, 4, 4), 0.5)

    def name(self, example: int) -> str:
        return f"{example}.png"


def test_a_number_is_embedded_by_its_place_between_low_and_high() -> None:
    number = Number("age", low=10, high=30, width=8)
    given = Given(torch.tensor([20.0, 30.0]), torch.tensor([True, True]))
    vector = number(given.values, given.kept).vector
    assert_close(vector, embed_sinusoidal(torch.tensor([500.0, 1000.0]), 8))
    assert_close(number(given.values, KEPT).vector[1], torch.zeros(8))


def test_numbers_are_read_from_their_column_and_missing_ones_are_not_kept() -> None:
    read = Number("age", low=0, high=1).read(Examples(["10", None, "x"]))
    given = read(torch.tensor([2, 0, 1]), torch.zeros(3, dtype=torch.int64))
    assert given.kept.tolist() == [False, True, False]
    assert given.values.tolist() == [0, 10, 0]


def test_a_missing_number_is_refused_by_the_name_of_its_picture_where_none_may_lack_it() -> None:
    with pytest.raises(ValueError, match=r"2 of 3 pictures have no number in the column age.*1\.png"):
        Number("age", low=0, high=1, dropout=0).read(Examples(["10", "", "nan"]))


def test_a_number_that_single_precision_cannot_hold_is_none() -> None:
    assert find_range("age", ["3", "1e39", "5"]) == (3, 5)
    given = Number("age", low=3, high=5).read(Examples(["4", "-1e39"]))(torch.tensor([0, 1]), torch.zeros(2).long())
    assert given.kept.tolist() == [True, False]


@pytest.mark.parametrize(("low", "high"), [(1.7e9, 1.7e9 + 8), (-(2.0**60), 2.0**10 - 2.0**60)])
def test_large_numbers_close_together_stay_different(low: float, high: float) -> None:
    number = Number("time", low=low, high=high, width=8)
    texts = [repr(low + share * (high - low)) for share in (0, 0.25, 0.5, 1)]
    given = number.read(Examples(texts))(torch.arange(4), torch.zeros(4, dtype=torch.int64))
    expected = embed_sinusoidal(torch.tensor([0.0, 250.0, 500.0, 1000.0]), 8)
    assert_close(number(given.values, given.kept).vector, expected)


def test_a_trainer_in_half_precision_leaves_numbers_as_they_are() -> None:
    given = Given(torch.tensor([1990.0, 1991.0]), torch.tensor([True, True]))
    batch = LatentBatch(torch.arange(2), Moments(torch.zeros(2, 1), None), CaptionBatch(torch.zeros(2, 1)), {"year": given})
    converted = HalfPrecision("bf16-true").convert_input(batch)
    assert converted.moments.mean.dtype == torch.bfloat16
    assert converted.conditions["year"].values.tolist() == [1990, 1991]


def test_a_hole_of_another_shape_is_scaled_with_the_latents_that_it_leaves() -> None:
    condition = Inpaint(masks=1, latent_channels=2)
    hole = torch.zeros(1, 1, 4, 8)
    hole[..., :4] = 1
    rows = [Given(torch.cat([hole, torch.full((1, 2, 4, 8), 3.0)], 1), KEPT[:1]), Given(torch.ones(1, 3, 6, 6), KEPT[:1])]
    gathered = condition.gather(rows, latent_size=(6, 6))
    assert gathered.kept.all()
    assert gathered.values.shape == (2, 3, 6, 6)
    assert torch.equal(gathered.values[0, 0], torch.tensor([1.0, 1, 1, 0, 0, 0]).expand(6, 6))
    assert_close(gathered.values[0, 1:], torch.full((2, 6, 6), 3.0))
    assert torch.equal(gathered.values[1], rows[1].values[0])


def test_a_column_of_other_characters_needs_a_name() -> None:
    with pytest.raises(ValueError, match=r"'my age'.*name:"):
        Number("my age")
    assert Number("my age", name="age").column == "my age"


def test_the_range_of_a_column_is_that_of_its_numbers() -> None:
    assert find_range("age", ["3", None, "-2.5", "inf", "old"]) == (-2.5, 3)
    for texts in ([], ["x"], ["4", "4"]):
        with pytest.raises(ValueError, match="column age"):
            find_range("age", texts)
    with pytest.raises(ValueError, match=r"dose, year"):
        find_range("age", [], columns=lambda: list_number_columns([{"year": "1990", "who": "x"}, {"dose": "0.5"}]))


@pytest.mark.parametrize(("mode", "channels", "noted"), [("RGBA", 1, True), ("RGBA", 4, False), ("RGB", 1, False)])
def test_a_transparent_map_is_noted(mode: str, channels: int, noted: bool, tmp_path: Path) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "map.png")
    drawing = SimpleNamespace(sides=(4, 4), autoencoder=SimpleNamespace(factor=1))
    with collecting_messages() as messages:
        values = read_map_file(str(tmp_path / "map.png"), Map(name="depth", channels=channels), drawing)  # type: ignore[arg-type]
    assert any("map.depth" in line and "white" in line for line in messages) == noted
    assert values.mean() == (1 if noted else -1)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (torch.zeros(1, 1, 4, 6), "Given"),
        (Given(torch.zeros(1, 1, 4, 4), KEPT[:1]), r"\(1, 4, 4\).*\(1, 4, 6\)"),
        (Given(torch.zeros(1, 2, 4, 6), KEPT[:1]), r"\(2, 4, 6\)"),
        (Given(torch.full((1, 1, 4, 6), torch.nan), KEPT[:1]), "NaN"),
        (Given(torch.zeros(1, 1, 4, 6), KEPT[1:]), "kept=False"),
    ],
)
def test_values_that_no_data_has_are_refused(given: Given, part: str) -> None:
    conditions = Conditions([Map(name="depth", dropout=0)])
    with pytest.raises(ValueError, match=f"depth.*{part}"):
        conditions.complete({"depth": given}, 2, **HERE)
    right = Given(torch.zeros(1, 1, 4, 6), KEPT[:1])
    assert conditions.complete({"depth": right}, 2, **HERE)["depth"].kept.all()
    lacking = Conditions([Map(name="depth", dropout=0.1)]).complete({"depth": Given(right.values, KEPT[1:])}, 2, **HERE)
    assert not lacking["depth"].kept.any()


def test_missing_numbers_are_counted_with_what_is_there_instead() -> None:
    assert describe_missing("age", ["1", "-2e3", " 7 "]) is None
    line = describe_missing("age", ["1", None, "", "nan", "1,5", "inf"])
    assert line is not None
    assert "5 of 6" in line
    assert "2 of them another text, such as '1,5'" in line
    only_empty = describe_missing("age", ["1", None, " "])
    assert only_empty is not None
    assert "another" not in only_empty


@pytest.mark.parametrize("limits", [(1, 1), (2, 1), (0, math.inf), (math.nan, 1), (0, 1e39)])
def test_a_range_that_is_none_is_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="condition age"):
        Number("age", low=limits[0], high=limits[1])


def test_the_size_of_a_picture_is_that_of_the_original_its_crop_and_what_is_trained() -> None:
    given = PictureSize().read(Examples())(torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.int64))
    assert given.values.tolist() == [[100, 80, 4, 8, 32, 24], [64, 64, 0, 0, 32, 32], [50, 90, 0, 58 - 20 - 32, 32, 32]]
    assert given.kept.all()
    size = PictureSize(width=4)
    assert size.vector_width == 24
    vector = size(given.values, given.kept).vector
    assert_close(vector[0, 4:8], embed_sinusoidal(torch.tensor([80.0]), 4)[0])
    assert size.absent(2, **HERE).values.tolist() == [[16, 24, 0, 0, 16, 24]] * 2  # type: ignore[arg-type]


def test_a_map_without_a_value_is_zero_and_one_of_another_shape_is_scaled() -> None:
    depth = Map(name="depth")
    given = Given(torch.rand(2, 1, 4, 6), KEPT)
    maps = depth(given.values, given.kept).maps
    assert torch.equal(maps[0], given.values[0])
    assert not maps[1].any()
    rows = [Given(torch.ones(1, 1, 4, 4), KEPT[:1]), Given(torch.ones(1, 1, 2, 8), KEPT[:1])]
    assert torch.equal(depth.gather(rows, latent_size=(4, 6)).values, torch.ones(2, 1, 4, 6))
    labels = torch.tensor([[0.0, 1.0], [-1.0, 1.0]]).view(1, 1, 2, 2)
    gathered = Map(name="labels", nearest=True).gather([Given(labels, KEPT[:1])], latent_size=(6, 6))
    assert set(gathered.values.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert Map(name="depth", channels=3, encoded=True, latent_channels=8).map_channels == 8


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.uint8])
@pytest.mark.parametrize("condition", [Map(name="shape"), Inpaint(latent_channels=2)])
def test_maps_of_a_cache_are_joined_in_mixed_precision_too(condition: Condition, kind: torch.dtype) -> None:
    rows = [Given(torch.full((1, condition.map_channels, 4, 4), value).to(kind), KEPT[:1]) for value in (0.0, 1.0)]
    with torch.autocast("cpu", torch.bfloat16):
        gathered = condition.gather(rows, latent_size=(4, 4))
    assert gathered.values.flatten(1).float().mean(1).tolist() == [0.0, 1.0]


def test_the_latents_of_a_reference_are_not_scaled_as_those_of_pictures() -> None:
    raw, kept = torch.rand(2, 4, 3, 3), torch.ones(2, dtype=torch.bool)
    convert = {"to_model": lambda raw: 9 * raw, "to_unscaled": lambda raw: raw - 1}
    reference = Map(name="reference", channels=3, encoded=True, scaled=False, **convert)  # type: ignore[arg-type]
    assert torch.equal(reference(raw, kept).maps, raw - 1)
    scaled = Map(name="reference", channels=3, encoded=True, **convert)  # type: ignore[arg-type]
    assert torch.equal(scaled(raw, kept).maps, 9 * raw)
    assert reference.identity != scaled.identity


@pytest.mark.parametrize(
    "settings",
    [{"scaled": False}, {"normalized": True, "nearest": True}, {"normalized": True, "encoded": True}],
)
def test_settings_of_a_map_that_exclude_each_other_are_refused(settings: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="condition depth"):
        Map(name="depth", **settings)  # type: ignore[arg-type]


def test_conditions_are_joined_with_the_caption_in_their_order() -> None:
    conditions = Conditions([Number("age", low=0, high=1, width=4), Map(name="depth"), PictureSize(width=2)])
    assert (conditions.vector_width, conditions.map_channels) == (16, 1)
    text = Conditioning(tokens=torch.ones(2, 3, 5, dtype=torch.bfloat16), vector=torch.ones(2, 6, dtype=torch.bfloat16))
    joined = conditions(text, conditions.absent(2, **HERE))
    assert joined.tokens is text.tokens or torch.equal(joined.tokens, text.tokens)
    assert joined.vector.shape == (2, 22)
    assert joined.vector.dtype == joined.maps.dtype == torch.bfloat16
    assert not joined.vector[:, 6:10].any()
    assert joined.maps.shape == (2, 1, 4, 6)


def test_tokens_without_a_mask_are_attended_to_next_to_those_with_one() -> None:
    one = Conditioning(tokens=torch.zeros(1, 2, 3), mask=torch.tensor([[True, False]]))
    joined = Conditioning.join([one, Conditioning(tokens=torch.ones(1, 1, 3))])
    assert joined.tokens.shape == (1, 3, 3)
    assert joined.mask.tolist() == [[True, False, True]]


def test_without_conditions_the_caption_stays_what_it_was() -> None:
    text = Conditioning(tokens=torch.rand(1, 2, 3))
    assert Conditions()(text, {}) is text


def test_what_is_given_once_is_for_all_pictures() -> None:
    conditions = Conditions([Number("age", low=0, high=1)])
    once = Given(torch.tensor([0.5]), torch.tensor([True]))
    assert conditions.complete({"age": once}, 3, **HERE)["age"].values.tolist() == [0.5] * 3  # type: ignore[arg-type]
    assert not conditions.complete({}, 3, **HERE)["age"].kept.any()  # type: ignore[arg-type]
    two = Given(torch.zeros(2), KEPT)
    with pytest.raises(ValueError, match="age is given for 2 pictures, and 3 are drawn"):
        conditions.complete({"age": two}, 3, **HERE)  # type: ignore[arg-type]


def test_an_unknown_condition_and_one_that_must_be_given_are_refused() -> None:
    conditions = Conditions([Number("age", low=0, high=1, dropout=0), PictureSize()])
    with pytest.raises(ValueError, match="not conditioned on depth; it is on age, size"):
        conditions.complete({"depth": Given(torch.zeros(1), KEPT[:1])}, 1, **HERE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"give number\.age=VALUE"):
        conditions.complete({}, 1, **HERE)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a.b", "9", "a b", "keys", "training", 3])
def test_a_name_that_parameters_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Conditions([Map(name=name)])


def test_two_conditions_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two conditions have the name size"):
        Conditions([PictureSize(), Map(name="size")])


@pytest.mark.parametrize("dropout", [-0.1, 1, True, "x", math.nan])
def test_a_dropout_that_is_no_share_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match="dropout"):
        Condition("a", dropout=dropout)
