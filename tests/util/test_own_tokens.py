"""A text encoder of own code that fails for a caption, or returns ids that cannot be stored, is named with the caption."""

import pytest
import torch
from torch import Tensor

from ldm_train.util.own_tokens import LARGEST, tokenize


class Numbers:
    """Captions of numbers; one id of each, at most `most`."""

    def __init__(self, *, ragged: bool = False) -> None:
        self.ragged = ragged

    def tokenize(self, captions: list[str]) -> Tensor:
        ids = torch.tensor([[int(caption or 0)] for caption in captions])
        return ids.expand(-1, max(len(caption) for caption in captions) + 1) if self.ragged else ids


def test_ids_pass() -> None:
    assert tokenize(Numbers(), ["3", "", "12"]).tolist() == [[3], [0], [12]]
    assert tokenize(Numbers(), [str(LARGEST)]).item() == LARGEST


def test_the_caption_that_fails_is_named() -> None:
    with pytest.raises(ValueError, match=r"Numbers\.tokenize .*'a fox' .*ValueError: invalid literal"):
        tokenize(Numbers(), ["3", "a fox", "12"])


def test_ids_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=f"{LARGEST + 1:,}"):
        tokenize(Numbers(), ["3", str(LARGEST + 1)])
    with pytest.raises(ValueError, match=r"\(2, 1\) .*'12'.*\(2, 3\)"):
        tokenize(Numbers(ragged=True), ["12", "3"])
