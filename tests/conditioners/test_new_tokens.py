"""New words of a text encoder: what they begin as, and that they alone differ."""

import re

import pytest
import torch
from torch.testing import assert_close

from ldm_train.conditioners.text_encoder import TextEncoder, small
from ldm_train.conditioners.text_tower import VOCABULARY
from ldm_train.types import CaptionBatch


def encoder(*new_words: str, seed: int = 0) -> TextEncoder:
    torch.manual_seed(seed)
    return small(width=32, layers=1, heads=4, context_length=12, new_words=new_words).eval()


def states(text: TextEncoder, caption: str) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        found = text(CaptionBatch(text.tokenize([caption])))
    assert found.tokens is not None
    assert found.vector is not None
    return found.tokens, found.vector


@pytest.mark.parametrize("caption", ["a <toy> here", "a <toy>, here", "<toy>", "an un<toy>ed", "<toy> <toy>"])
def test_a_new_word_begins_as_what_it_is_said_to(caption: str) -> None:
    text = encoder("<toy>=wooden toy")
    if "un<" not in caption:
        assert_close(states(text, caption), states(text, caption.replace("<toy>", "wooden toy")), rtol=0, atol=0)
    assert (text.tokenize([caption]) >= VOCABULARY).sum() == 2 * caption.count("<toy>")


def test_capital_letters_make_no_other_word() -> None:
    text = encoder("<Toy>=wooden toy")
    assert_close(text.tokenize(["A <TOY>"]), text.tokenize(["a <toy>"]), rtol=0, atol=0)
    with pytest.raises(ValueError, match="<Toy>, <toy> "):
        text.add_words({"<toy>": torch.zeros(1, 32)})


def test_captions_without_it_are_as_before() -> None:
    plain, text = encoder(), encoder("<toy>=toy")
    assert_close(text.tokenize(["a toy"]), plain.tokenize(["a toy"]), rtol=0, atol=0)
    assert_close(states(text, "a toy"), states(plain, "a toy"), rtol=0, atol=0)
    assert plain.identity["new_words"] == []
    assert text.identity["new_words"] == ["<toy>=1"]


def test_its_vectors_alone_get_a_gradient_where_it_is_alone_trained() -> None:
    text = encoder("<toy>=toy")
    for name, parameter in text.named_parameters():
        parameter.requires_grad_(name.endswith("token_embedding.learned"))
    tokens = text(CaptionBatch(text.tokenize(["a <toy>"]))).tokens
    assert tokens is not None
    tokens.square().sum().backward()
    assert {name for name, p in text.named_parameters() if p.grad is not None} == {"tower.token_embedding.learned"}


@pytest.mark.parametrize("word", ["<toy>", "<toy>=", "a b=toy", "=toy"])
def test_a_word_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="word"):
        encoder(word)


@pytest.mark.parametrize("word", ["sks", "toy", "Toy", "*", "é", "<|endoftext|>", "<start_of_text>"])
def test_a_word_of_the_vocabulary_is_refused(word: str) -> None:
    """diffusers refuses to add it again, and every caption with the old word would have the new vectors."""
    with pytest.raises(ValueError, match=re.escape(word)) as caught:
        encoder(f"{word}=wooden toy")
    assert f"<{word}>" in str(caught.value)


@pytest.mark.parametrize("word", ["<toy>", "<sks>", "sks dog".replace(" ", "-"), "zyxwvut"])
def test_a_word_that_it_does_not_have_is_taken(word: str) -> None:
    assert list(encoder(f"{word}=wooden toy").words.ids) == [word]


def test_a_word_of_more_vectors_than_a_caption_holds_is_refused() -> None:
    """With chunks of ten tokens."""
    long = " ".join(["toy"] * 11)
    with pytest.raises(ValueError, match=r"<toy> would get 11 vectors.*text_encoder\.chunks=2"):
        encoder(f"<toy>={long}")
    assert len(encoder(f"<toy>={' '.join(['toy'] * 10)}").words.ids["<toy>"]) == 10
