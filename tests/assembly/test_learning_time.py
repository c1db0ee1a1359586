"""What `check` says of learning: by the words of the captions, from the figures of measured runs."""

import json
from math import ceil
from pathlib import Path
from statistics import median

import pytest

from ldm_train.assembly.learning_time import RECOGNISED, SHARP, estimate_learning
from ldm_train.settings.composition import compose
from ldm_train.settings.schema.training import CheckSettings

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "expectations.json"


def settings(*words: str) -> CheckSettings:
    return compose("check", ["source.path=data", "max_steps=100", "batch_size=24", *words])


@pytest.mark.parametrize(
    ("captions", "pictures", "subjects"),
    [
        (["a red cat", "a red dog", "A cat"], 3, 3),
        (["a red cat", "a blue cat"], 800, 4),
        (["a long text of words"] * 2, 2, 2),
    ],
)
def test_subjects_are_words_but_no_more_than_pictures(captions: list[str], pictures: int, subjects: int) -> None:
    learning = estimate_learning(settings(), captions, pictures, 0.01)
    assert learning is not None
    assert (learning.subjects, learning.recognised) == (subjects, subjects * RECOGNISED)


def test_a_run_that_is_too_short_says_by_how_much() -> None:
    learning = estimate_learning(settings(), ["a cat"] * 40, 40, 0.01)
    assert learning is not None
    assert len([*learning.describe()]) == 1
    longer = estimate_learning(settings("max_steps=5"), ["a cat"] * 40, 40, 0.01)
    assert longer is not None
    assert f"{ceil(20 * RECOGNISED / (5 * 24)) / 10:g} times" in [*longer.describe()][1]


@pytest.mark.parametrize("word", ["network.weights=outputs/run", "image_size=128", "text_encoder=unconditional"])
def test_what_was_not_measured_is_not_estimated(word: str) -> None:
    assert estimate_learning(settings(word), ["a cat"], 40, 0.01) is None


def test_the_figures_are_those_of_the_measured_runs() -> None:
    runs = [run for run in json.loads(RESULTS.read_text()).values() if isinstance(run, dict)]
    runs = [run for run in runs if run["examples_until_recognised"] is not None]
    for name, used in (("examples_until_recognised", RECOGNISED), ("examples_until_the_loss_fell", SHARP)):
        known = [run for run in runs if run[name] is not None]
        measured = median(run[name] / min(run["words"], run["pictures"]) for run in known)
        assert used == pytest.approx(measured, rel=0.05)
