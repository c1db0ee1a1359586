"""The file of prompts that `fit` hands to `sample`."""

from pathlib import Path
from typing import Any

import pytest

from ldm_train.assembly.prompts import parse_prompts
from ldm_train.commands.fit import last_prompts


@pytest.fixture
def survey() -> Any:
    return None  # nothing is asked of it here


def test_captions_are_drawn_as_they_are(survey: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that a line of a text file would take as a comment, or as options."""
    captions = ["#1 fox", "a fox --d 7", "${x}"]
    monkeypatch.setattr(last_prompts, "choose_trained", lambda survey, share: [(caption, None) for caption in captions])
    last_prompts.write_prompts(None, survey, None, tmp_path / "prompts.json")
    assert [prompt.as_mapping() for prompt in parse_prompts(str(tmp_path / "prompts.json"))] == [
        {"prompt": caption} for caption in captions
    ]


def test_prompts_keep_their_options(survey: Any, tmp_path: Path) -> None:
    shown = last_prompts.write_prompts(["a fox --d 7", "a cat"], survey, None, tmp_path / "prompts.json")
    assert shown == [("a fox --d 7", None), ("a cat", None)]
    assert [prompt.seed for prompt in parse_prompts(str(tmp_path / "prompts.json"))] == [7, None]
