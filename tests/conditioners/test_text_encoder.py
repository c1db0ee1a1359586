"""Captions to conditioning: what is padded, cut and pooled, and that a cached embedding is as good as its caption."""

import re
from random import Random
from time import process_time

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transformer import TextTransformer
from torch.testing import assert_close

from ldm_train.conditioners.text_encoder import VOCABULARY, TextEncoder, clip, small
from ldm_train.conditioners.tokenizer import Tokenizer
from ldm_train.types import CaptionBatch

START, END = 49406, 49407
CAPTIONS = ["a red apple", "", "two cats and a dog under the old oak tree"]
LONG = " ".join(["two cats and a dog, under the 1 old oak tree."] * 12)
OPEN_CLIP = open_clip.SimpleTokenizer(context_length=8)
TOKENIZER = Tokenizer(context_length=8)
PADS = pytest.mark.parametrize("pad_token", [0, END])


def encoder(*, pad_token=0, pooled=True, layer="last", trained=True, context_length=8, chunks=1):
    """Always of the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = TextTransformer(
            context_length=context_length, vocab_size=VOCABULARY, width=16, heads=2, layers=3, output_dim=16
        ).eval()
    return TextEncoder(
        tower,
        context_length=context_length,
        chunks=chunks,
        pad_token=pad_token,
        trained=trained,
        pooled=pooled,
        layer=layer,
    )


@PADS
def test_captions_are_padded_after_their_end_as_reported(pad_token):
    tokens = encoder(pad_token=pad_token).tokenize(["a red apple", ""])
    assert tokens.shape == (2, 8)
    assert tokens[:, 0].tolist() == [START, START]
    assert tokens[0, 4:].tolist() == [END] + [pad_token] * 3
    assert tokens[1, 1:].tolist() == [END] + [pad_token] * 6
    assert not torch.isin(tokens[0, 1:4], torch.tensor([START, END, 0])).any()


@PADS
def test_long_captions_are_cut_and_keep_the_end(pad_token):
    [whole] = encoder(pad_token=pad_token, context_length=20).tokenize(CAPTIONS[2:])
    [cut] = encoder(pad_token=pad_token).tokenize(CAPTIONS[2:])
    assert cut.tolist() == [*whole[:7].tolist(), END]


@pytest.mark.parametrize("context_length", [3, 8, 77])
@pytest.mark.parametrize(
    "caption",
    [
        *CAPTIONS,
        LONG,
        "an <end_of_text> inside, and <start_of_text>",
        "It's caf\u00e9 &amp; th\u00e9,  12 \u6f22\u5b57!",
        "\U0001f600\U0001f44d\U0001f3fd" * 9,
        "a\0b\0",
        "half a pair \ud83d, \udfff",
        "h" * 999,
    ],
    ids=range(10),
)
def test_one_chunk_is_what_open_clip_says(caption, context_length):
    tokens = encoder(context_length=context_length).tokenize([caption, "a cat"])
    expected = OPEN_CLIP([caption, "a cat"], context_length=context_length)
    ends = expected.argmax(dim=1, keepdim=True)
    expected = expected.masked_fill(torch.arange(context_length) > ends, 0)
    assert_close(tokens, expected, rtol=0, atol=0)


def test_one_chunk_s_states_are_the_tower_s():
    text_encoder = encoder()
    tokens = text_encoder.tokenize([*CAPTIONS, LONG])
    states = text_encoder.tower.forward_intermediates(
        tokens, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
    )["text_intermediates"][0]
    assert_close(text_encoder.embed(tokens), states, rtol=0, atol=0)


@PADS
@pytest.mark.parametrize("chunks", [2, 3, 30])
def test_chunks_hold_a_caption_s_tokens_in_order(chunks, pad_token):
    captions = [*CAPTIONS, LONG]
    tokens = encoder(chunks=chunks, pad_token=pad_token).tokenize(captions)
    assert tokens.shape == (4, chunks * 8)
    for caption, row in zip(captions, tokens.view(4, chunks, 8).tolist(), strict=True):
        ends = [piece.index(END) for piece in row]
        assert [piece[0] for piece in row] == [START] * chunks
        assert [piece[end + 1 :] for piece, end in zip(row, ends, strict=True)] == [[pad_token] * (7 - end) for end in ends]
        kept = [token for piece, end in zip(row, ends, strict=True) for token in piece[1:end]]
        assert kept == OPEN_CLIP.encode(caption)[: chunks * 6]


def test_the_first_chunk_is_the_cut_caption():
    captions = [*CAPTIONS, LONG]
    assert_close(encoder(chunks=3).tokenize(captions)[:, :8], encoder().tokenize(captions), rtol=0, atol=0)


@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_each_chunk_is_embedded_by_itself(layer):
    text_encoder = encoder(chunks=3, layer=layer)
    tokens = text_encoder.tokenize([*CAPTIONS, LONG])
    states = text_encoder.embed(tokens)
    assert states.shape == (4, 24, 16)
    alone = torch.cat([encoder(layer=layer).embed(piece) for piece in tokens.split(8, dim=1)], dim=1)
    assert_close(states, alone)


def test_the_pooled_vector_is_the_first_chunk_s():
    captions = [*CAPTIONS, LONG]
    whole, cut = encoder(chunks=3, pad_token=END), encoder(pad_token=END)
    tokens = whole.tokenize(captions)
    expected = cut(CaptionBatch(cut.tokenize(captions))).vector
    assert_close(whole(CaptionBatch(tokens)).vector, expected)
    assert_close(whole(CaptionBatch(tokens, whole.embed(tokens))).vector, expected)


@pytest.mark.parametrize("chunks", [1, 3])
def test_no_captions_are_no_tokens(chunks):
    text_encoder = encoder(chunks=chunks)
    tokens = text_encoder.tokenize([])
    assert tokens.shape == (0, chunks * 8)
    assert tokens.dtype == torch.int64
    assert text_encoder.count([]) == []


def test_tokens_are_counted_before_the_cut():
    captions = [*CAPTIONS, LONG, "a cat <end_of_text> unseen"]
    numbers = [3, 0, 10, 12 * 13, 2]
    for chunks in (1, 2):
        text_encoder = encoder(chunks=chunks)
        assert text_encoder.count(captions) == numbers
        assert text_encoder.capacity == chunks * 6
        kept = [min(number, text_encoder.capacity) for number in numbers]
        inner = ~torch.isin(text_encoder.tokenize(captions), torch.tensor([START, END, 0]))
        assert inner.sum(dim=1).tolist() == kept


@pytest.mark.parametrize("chunks", [0, -1])
def test_fewer_than_one_chunk_is_refused(chunks):
    with pytest.raises(ValueError, match=re.escape(f"text_encoder.chunks={chunks} must be at least 1")):
        encoder(chunks=chunks)


def test_a_length_without_room_for_a_token_is_refused():
    with pytest.raises(ValueError, match=re.escape("text_encoder.context_length=2 must be at least 3")):
        encoder(context_length=2)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=80) | st.text("abcdeo' ", max_size=80) | st.text(st.characters(categories=["L"]), max_size=80))
def test_every_text_has_open_clip_s_ids(caption):
    assert TOKENIZER.encode(caption) == OPEN_CLIP.encode(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "👩‍👩‍👧‍👦 and 🏳️‍🌈",
        " \t a\u00a0b\u200b\nc\ufeff ",
        "don't THEY'LL",
        "<start_of_text> x <END_OF_TEXT>",
        "\0\x7f\U0010ffff",
        "\ud800",
        "日本語のテキスト 3.14 !!!...",
        "ab" * 200,
    ],
)
def test_odd_captions_have_open_clip_s_ids(caption):
    assert TOKENIZER.encode(caption) == OPEN_CLIP.encode(caption)


def test_the_vocabulary_and_every_merge_are_open_clip_s():
    assert TOKENIZER.encoder == OPEN_CLIP.encoder
    assert TOKENIZER.decoder == OPEN_CLIP.decoder
    assert TOKENIZER.byte_decoder == OPEN_CLIP.byte_decoder
    assert TOKENIZER.merges == sorted(OPEN_CLIP.bpe_ranks, key=OPEN_CLIP.bpe_ranks.__getitem__)
    words = [OPEN_CLIP.decode([number]).strip() for number in range(0, VOCABULARY - 2, 10)]
    assert [word for word in words if TOKENIZER.encode(word) != OPEN_CLIP.encode(word)] == []


@pytest.mark.parametrize(
    "caption",
    [
        "a" * 100_000,
        "".join(Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=100_000)),
        "\U0001f600\U0001f44d" * 50_000,
        "\0" * 100_000,
        "\ud800" * 100_000,
        "7" * 100_000,
    ],
    ids=["one letter", "letters", "emoji", "NUL", "lone surrogates", "digits"],
)
def test_a_caption_of_100000_characters_takes_seconds_at_most(caption):
    """open_clip's own merges take a minute and a half for such a word of letters."""
    text_encoder = encoder()
    start = process_time()
    [row] = text_encoder.tokenize([caption])
    assert process_time() - start < 10  # about one on an idle core
    assert row[0] == START
    assert END in row


def test_hidden_states_are_one_per_token():
    text_encoder = encoder()
    assert text_encoder.embed(text_encoder.tokenize(CAPTIONS)).shape == (3, 8, 16)
    assert (text_encoder.context_width, text_encoder.vector_width) == (16, 16)


@pytest.mark.parametrize(("layer", "block"), [("last", -1), ("penultimate", -2)])
def test_tokens_are_the_chosen_layer_s_states_through_the_final_norm(layer, block):
    text_encoder, seen = encoder(layer=layer), []
    text_encoder.tower.transformer.resblocks[block].register_forward_hook(lambda module, inputs, output: seen.append(output))
    states = text_encoder.embed(text_encoder.tokenize(CAPTIONS))
    assert_close(states, text_encoder.tower.ln_final(seen[0]))


def test_the_layers_differ_and_others_are_refused():
    tokens = encoder().tokenize(CAPTIONS)
    assert not torch.isclose(encoder(layer="last").embed(tokens), encoder(layer="penultimate").embed(tokens)).all(-1).any()
    with pytest.raises(ValueError, match=r"text_encoder\.layer=first must be last or penultimate"):
        encoder(layer="first")


@PADS
def test_the_pooled_vector_is_the_end_token_s_state(pad_token):
    text_encoder = encoder(pad_token=pad_token)
    conditioning = text_encoder(CaptionBatch(text_encoder.tokenize(CAPTIONS)))
    ends = [4, 1, 7]
    assert_close(conditioning.vector, torch.stack([conditioning.tokens[i, end] for i, end in enumerate(ends)]))


def test_the_pooled_vector_does_not_know_the_padding():
    vectors = [e(CaptionBatch(e.tokenize(CAPTIONS))).vector for e in (encoder(pad_token=0), encoder(pad_token=END))]
    assert_close(vectors[0], vectors[1])


def test_without_pooling_there_is_no_vector():
    text_encoder = encoder(pooled=False)
    assert text_encoder.vector_width is None
    assert text_encoder(CaptionBatch(text_encoder.tokenize(CAPTIONS))).vector is None


@PADS
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("chunks", [1, 2])
def test_cached_embeddings_give_the_conditioning_of_their_tokens(pooled, pad_token, chunks):
    text_encoder = encoder(pad_token=pad_token, pooled=pooled, chunks=chunks)
    tokens = text_encoder.tokenize(CAPTIONS)
    fresh, cached = text_encoder(CaptionBatch(tokens)), text_encoder(CaptionBatch(tokens, text_encoder.embed(tokens)))
    assert_close(vars(cached), vars(fresh), rtol=0, atol=0)


def test_embeddings_cached_in_half_precision_come_back_in_the_weights_own():
    text_encoder = encoder()
    tokens = text_encoder.tokenize(CAPTIONS)
    half = text_encoder.embed(tokens).half()
    assert_close(text_encoder(CaptionBatch(tokens, half)).tokens, half.float(), rtol=0, atol=0)


@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_a_trained_encoder_has_no_unused_parameter(layer):
    """Which DistributedDataParallel would refuse."""
    text_encoder = encoder(layer=layer, pooled=False)
    text_encoder(CaptionBatch(text_encoder.tokenize(CAPTIONS))).tokens.sum().backward()
    assert [name for name, p in text_encoder.named_parameters() if p.requires_grad != (p.grad is not None)] == []
    assert text_encoder.tower.token_embedding.weight.requires_grad


def test_a_frozen_encoder_has_nothing_to_train():
    assert [name for name, p in encoder(trained=False).named_parameters() if p.requires_grad] == []


def test_the_small_encoder_has_defaults_that_work():
    text_encoder = small()
    conditioning = text_encoder(CaptionBatch(text_encoder.tokenize(CAPTIONS)))
    assert conditioning.tokens.shape == (3, 16, 128)
    assert conditioning.vector.shape == (3, 128)
    assert text_encoder.trained


def test_the_small_encoder_takes_chunks():
    text_encoder = small(chunks=2)
    conditioning = text_encoder(CaptionBatch(text_encoder.tokenize(CAPTIONS)))
    assert conditioning.tokens.shape == (3, 32, 128)
    assert text_encoder.capacity == 28


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """An open_clip model, and a file of its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    path = tmp_path_factory.mktemp("clip") / "weights.pt"
    torch.save(model.state_dict(), path)
    return model.eval(), path


def test_clip_loads_a_local_file_and_says_what_open_clip_says(published):
    model, path = published
    text_encoder = clip(model="ViT-S-32-alt", weights=str(path), pad_token=0, pooled=True).eval()
    assert not text_encoder.trained
    tokens = text_encoder.tokenize(CAPTIONS)
    assert_close(tokens, open_clip.get_tokenizer("ViT-S-32-alt")(CAPTIONS))
    with torch.no_grad():
        # CLIP's own use of the tower ends in a projection, which the conditioner goes without.
        projected = text_encoder(CaptionBatch(tokens)).vector @ model.text_projection
        assert_close(projected, model.encode_text(tokens), rtol=1e-4, atol=1e-5)


def test_clip_takes_chunks_of_its_own_length(published):
    text_encoder = clip(model="ViT-S-32-alt", weights=str(published[1]), pad_token=0, chunks=2)
    assert text_encoder.capacity == 2 * (text_encoder.tower.context_length - 2)
    assert text_encoder.tokenize(CAPTIONS).shape == (3, 2 * text_encoder.tower.context_length)


@pytest.mark.parametrize(
    "model",
    [
        "ViT-of-nowhere",
        "openai",
    ],
)
def test_an_unknown_model_is_refused_by_name(model):
    with pytest.raises(ValueError, match=f"text_encoder.model={model} .*open_clip"):
        clip(model=model, weights="openai", pad_token=0)


def test_unknown_weights_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"text_encoder\.weights=nowhere\.pt is neither .* of ViT-L-14 .*openai"):
        clip(model="ViT-L-14", weights="nowhere.pt", pad_token=0)


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"text_encoder.weights=.*weights.pt cannot be read"):
        clip(model="ViT-S-32-alt", weights=str(path), pad_token=0)


def test_the_words_that_a_tokenizer_remembers_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(context_length=12)
    alone = [tokenizer.encode(word) for word in ("apple", "zebra", "x" * 1000)]
    fresh = Tokenizer(context_length=12)
    monkeypatch.setattr("ldm_train.conditioners.tokenizer.MOST_CACHED", len(fresh._cache) + 1)
    assert [fresh.encode(word) for word in ("apple", "zebra", "x" * 1000)] == alone
    assert len(fresh._cache) == 3
    assert not [word for word in tokenizer._cache if len(word) >= 1000]
