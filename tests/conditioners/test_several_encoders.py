"""Several text encoders: what they give is what each gives, concatenated by hand."""

import pytest
import torch
from torch.testing import assert_close

from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.several_encoders import SeveralEncoders
from ldm_train.conditioners.text_encoder import small
from ldm_train.conditioners.transformers_encoder import load_transformers
from ldm_train.types import CaptionBatch
from tests.conditioners.tiny_text_models import write_bert, write_clip, write_t5

CAPTIONS = ["a red fox under the tree", "", "two small cat and a dog"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "t5": write_t5(folder / "t5"),
        "bert": write_bert(folder / "bert"),
        "first": write_clip(folder / "first", width=16, seed=3),
        "second": write_clip(folder / "second", width=32, projected=True, seed=4),
    }


def conditioning(encoder, *, stored=None):
    tokens = encoder.tokenize(CAPTIONS)
    return encoder(CaptionBatch(tokens, stored))


def test_joined_along_the_width_it_is_the_concatenation_of_sdxl(folders):
    settings = {"max_length": 16, "layer": -2, "mask": False}
    encoders = [
        load_transformers(weights=str(folders["first"]), **settings),
        load_transformers(weights=str(folders["second"]), pooled=True, **settings),
    ]
    parts = [conditioning(encoder) for encoder in encoders]
    both = SeveralEncoders(encoders=encoders, join="width")
    found = conditioning(both)
    assert torch.equal(found.tokens, torch.cat([part.tokens for part in parts], dim=2))
    assert torch.equal(found.vector, parts[1].vector)
    assert found.mask is None
    assert (both.context_width, both.vector_width) == (48, 12)


def test_joined_along_the_tokens_narrow_ones_are_filled_with_zeros(folders):
    encoders = [
        load_transformers(weights=str(folders["t5"]), max_length=9, pooled=True),
        load_transformers(weights=str(folders["bert"]), max_length=12, pooled=True),
    ]
    t5, bert = (conditioning(encoder) for encoder in encoders)
    both = SeveralEncoders(encoders=encoders)
    found = conditioning(both)
    zeros = torch.zeros(3, 9, 24 - 16)
    assert torch.equal(found.tokens, torch.cat([torch.cat([t5.tokens, zeros], 2), bert.tokens], 1))
    assert torch.equal(found.mask, torch.cat([t5.mask, bert.mask], 1))
    assert torch.equal(found.vector, torch.cat([t5.vector, bert.vector], 1))
    assert (both.context_width, both.vector_width) == (24, 40)


@pytest.mark.parametrize("join", ["tokens", "width"])
def test_stored_embeddings_condition_as_captions_do(folders, join):
    torch.manual_seed(0)
    encoders = [
        load_transformers(weights=str(folders["t5"]), max_length=16, pooled=True),
        small(width=8, context_length=16),  # trained: nothing of it is stored
        load_transformers(weights=str(folders["second"]), max_length=16),
        small(width=8, context_length=16, trained=False),
    ]
    both = SeveralEncoders(encoders=encoders, join=join).eval()
    rows = both.embed(both.tokenize(CAPTIONS))
    assert rows.shape == (3, *both.embedding_shape)
    assert rows.shape[1] == sum(size for size, encoder in zip(both.sizes, encoders, strict=True) if not encoder.trained)
    expected, found = conditioning(both), conditioning(both, stored=rows)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.vector, expected.vector)
    both.keep_only(CAPTIONS)
    kept = conditioning(both)
    assert_close(kept.tokens, expected.tokens)
    assert any(parameter.requires_grad for parameter in both.parameters())
    found.tokens.sum().backward()
    assert all(encoder.tower.token_embedding.weight.grad is not None for encoder in encoders if encoder.trained)


def test_how_they_are_joined_is_not_in_the_name_of_what_is_stored(folders):
    def encoder(join, **settings):
        first = load_transformers(weights=str(folders["first"]), max_length=16)
        return SeveralEncoders(encoders=[first, small(width=8, context_length=16, **settings)], join=join)

    tokens, width = encoder("tokens"), encoder("width")
    assert tokens.identity == width.identity
    assert tokens.computation != width.computation
    assert tokens.identity != encoder("tokens", trained=False).identity
    assert tokens.computation == encoder("tokens").computation  # a trained one's weights come with the network's


def test_a_caption_counts_as_cut_if_any_encoder_cuts_it(folders):
    wide = load_transformers(weights=str(folders["t5"]), max_length=12)
    short = load_transformers(weights=str(folders["bert"]), max_length=6)
    both = SeveralEncoders(encoders=[wide, short])
    assert both.capacity == 4
    assert both.count(["a red fox and", "a red fox and the", ""]) == [4, 5, 0]


def test_what_cannot_be_joined_is_refused(folders):
    t5 = load_transformers(weights=str(folders["t5"]), max_length=8)
    for encoders, join, named in (
        ([], "tokens", r"encoders=\[\]"),
        ([t5, small(width=8)], "width", r"\[8, 16\]"),
        ([t5, ClassLabels(classes=["a"])], "tokens", r"encoders\[1\].*ClassLabels"),
        ([small(width=8, new_words=["<toy>=a red toy"]), t5], "tokens", r"encoders\[0\].new_words"),
        ([t5], "depth", "join=depth"),
    ):
        with pytest.raises(ValueError, match=named):
            SeveralEncoders(encoders=encoders, join=join)
