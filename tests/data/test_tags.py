"""Captions that are tags: drawn by position, kept as settings say, and tokenised as they are drawn."""

from collections import Counter
from itertools import permutations

import pytest
import torch
from torch import Tensor

from ldm_train.assembly.drawn_tags import draw_tags
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.unconditional import Unconditional
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.batches.tag_draws import TaggedCaptions, Tags
from ldm_train.data.cache.reader import LatentCache
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings

POSITIONS = range(1200)


def drawn(tags: Tags, caption: str, *, seed: int = 0) -> list[list[str]]:
    return [tags(caption, position, seed=seed).split(", ") for position in POSITIONS]


def test_in_no_place_is_one_tag_more_often_than_another() -> None:
    """So that the order cannot be learned."""
    counts = Counter(tuple(tags) for tags in drawn(Tags(shuffle=True), "a, b ,c"))
    assert counts.keys() == set(permutations("abc"))
    assert all(150 < count < 250 for count in counts.values())


def test_first_tags_stay_first_and_others_are_left_out_at_their_share() -> None:
    found = drawn(Tags(shuffle=True, keep=1, dropout=0.25), "me, a, b, c, d")
    assert all(tags[0] == "me" for tags in found)
    assert sum(len(tags) - 1 for tags in found) / len(found) == pytest.approx(3, abs=0.15)
    assert {len(tags) for tags in found} == {1, 2, 3, 4, 5}


def test_of_a_caption_one_tag_stays_at_least() -> None:
    found = drawn(Tags(dropout=0.9), "a, b")
    assert {tuple(tags) for tags in found} == {("a",), ("b",), ("a", "b")}


def test_leaving_tags_out_does_not_change_the_order_of_the_others() -> None:
    whole, fewer = drawn(Tags(shuffle=True), "a,b,c,d"), drawn(Tags(shuffle=True, dropout=0.5), "a,b,c,d")
    assert fewer == [[tag for tag in tags if tag in left] for tags, left in zip(whole, fewer, strict=True)]
    assert drawn(Tags(shuffle=True), "a,b,c,d", seed=1) != whole


@pytest.mark.parametrize("tags", [Tags(), Tags(keep=2), Tags(shuffle=True, keep=9)])
def test_captions_of_which_nothing_is_drawn_stay_as_they_are(tags: Tags) -> None:
    assert tags(" a,b ,  c.", 0, seed=0) == " a,b ,  c."


def test_batches_have_captions_as_drawn_at_their_positions(cache) -> None:
    tokenized: list[str] = []

    def tokenize(captions: list[str]) -> Tensor:
        tokenized.extend(captions)
        return torch.zeros(len(captions), 3, dtype=torch.int64)

    def captions_of(parts: list[Tensor], **settings: float) -> list[str]:
        tokenized.clear()
        for part in parts:
            batch = data.fetch(part)
            assert batch.captions.tokens.shape == (len(part), 3)
            assert batch.captions.embeddings is None
        return [*tokenized]

    latents = LatentCache(cache)
    data = CachedLatents(latents, batch_size=4, tagged=TaggedCaptions(Tags(shuffle=True), tokenize))
    positions = torch.arange(400)
    found = captions_of([positions])
    assert captions_of([*positions.split(7)]) == found
    assert 0.05 < found.count("") / len(found) < 0.15
    assert {"circle, blue", "blue, circle", "a black circle on a blue background"} <= {*found}
    fixed = data.fixed_batch(torch.arange(3), torch.arange(3)).captions
    assert torch.equal(fixed.tokens, latents.captions(torch.arange(3), torch.zeros(3), torch.zeros(3).bool()).tokens)


@pytest.mark.parametrize("text_encoder", [ClassLabels(classes=["a"]), Unconditional()])
def test_captions_that_are_no_tags_are_refused(text_encoder: torch.nn.Module) -> None:
    def settings(*words: str) -> TrainSettings:
        return compose_as(TrainSettings, ["cache=c", "run_dir=r", *words])

    assert draw_tags(settings("tags.keep=3"), text_encoder) is None
    for word in ("tags.shuffle=true", "tags.dropout=0.5"):
        with pytest.raises(ValueError, match=rf"{word}.*{type(text_encoder).__name__}"):
            draw_tags(settings(word), text_encoder)
