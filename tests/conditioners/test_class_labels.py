"""Class labels as a conditioner."""

import re

import pytest
import torch
from torch.testing import assert_close

from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.types import CaptionBatch


def test_each_class_has_a_vector_and_none_has_one_too() -> None:
    labels = ClassLabels(classes=["cat", "dog"], width=5)
    tokens = labels.tokenize(["dog", "", "cat", "dog"])
    assert tokens.tolist() == [[2], [0], [1], [2]]
    conditioning = labels(CaptionBatch(tokens))
    assert conditioning.tokens is None
    assert conditioning.vector.shape == (4, 5)
    assert_close(conditioning.vector[0], conditioning.vector[3], rtol=0, atol=0)
    assert len(conditioning.vector.unique(dim=0)) == 3


def test_each_caption_is_one_label_and_fits() -> None:
    labels = ClassLabels(classes=["a red cat", "dog"])
    assert labels.count(["dog", "", "a red cat"]) == [1, 1, 1]
    assert labels.count([]) == []
    assert labels.capacity == 1


def test_every_vector_is_trained() -> None:
    labels = ClassLabels(classes=["cat", "dog"], width=5)
    labels(CaptionBatch(labels.tokenize(["cat", "dog", ""]))).vector.sum().backward()
    assert torch.equal(labels.embedding.weight.grad, torch.ones(3, 5))


def test_an_unknown_class_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'cow' .*cat, dog"):
        ClassLabels(classes=["cat", "dog"]).tokenize(["cat", "cow"])


@pytest.mark.parametrize("classes", [None, [], ["cat", "cat"], ["cat", ""]])
def test_classes_that_are_none_are_refused(classes: list[str] | None) -> None:
    with pytest.raises(ValueError, match=re.escape(f"text_encoder.classes={classes or []}")):
        ClassLabels(classes=classes)
