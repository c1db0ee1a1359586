"""Captions to conditioning: what is padded, cut and pooled, and that a cached embedding is as good as its caption."""

import open_clip
import pytest
import torch
from open_clip.transformer import TextTransformer
from torch.testing import assert_close

from ldm_train.encoders.conditioner import VOCABULARY, TextEncoder, clip, small
from ldm_train.types import Captions

START, END = 49406, 49407
CAPTIONS = ["a red apple", "", "two cats and a dog under the old oak tree"]
PADS = pytest.mark.parametrize("pad_token", [0, END])


def encoder(*, pad_token=0, pooled=True, layer="last", trained=True, context_length=8):
    """Always of the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = TextTransformer(
            context_length=context_length, vocab_size=VOCABULARY, width=16, heads=2, layers=3, output_dim=16
        ).eval()
    return TextEncoder(
        tower, context_length=context_length, pad_token=pad_token, trained=trained, pooled=pooled, layer=layer
    )


@PADS
def test_captions_are_padded_after_their_end_as_told(pad_token):
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
    conditioning = text_encoder(Captions(text_encoder.tokenize(CAPTIONS)))
    ends = [4, 1, 7]
    assert_close(conditioning.vector, torch.stack([conditioning.tokens[i, end] for i, end in enumerate(ends)]))


def test_the_pooled_vector_does_not_know_the_padding():
    vectors = [e(Captions(e.tokenize(CAPTIONS))).vector for e in (encoder(pad_token=0), encoder(pad_token=END))]
    assert_close(vectors[0], vectors[1])


def test_without_pooling_there_is_no_vector():
    text_encoder = encoder(pooled=False)
    assert text_encoder.vector_width is None
    assert text_encoder(Captions(text_encoder.tokenize(CAPTIONS))).vector is None


@PADS
@pytest.mark.parametrize("pooled", [False, True])
def test_cached_embeddings_give_the_conditioning_of_their_tokens(pooled, pad_token):
    text_encoder = encoder(pad_token=pad_token, pooled=pooled)
    tokens = text_encoder.tokenize(CAPTIONS)
    fresh, cached = text_encoder(Captions(tokens)), text_encoder(Captions(tokens, text_encoder.embed(tokens)))
    assert_close(vars(cached), vars(fresh), rtol=0, atol=0)


def test_embeddings_cached_in_half_precision_come_back_in_the_weights_own():
    text_encoder = encoder()
    tokens = text_encoder.tokenize(CAPTIONS)
    half = text_encoder.embed(tokens).half()
    assert_close(text_encoder(Captions(tokens, half)).tokens, half.float(), rtol=0, atol=0)


@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_a_trained_encoder_has_no_unused_parameter(layer):
    """Which DistributedDataParallel would refuse."""
    text_encoder = encoder(layer=layer, pooled=False)
    text_encoder(Captions(text_encoder.tokenize(CAPTIONS))).tokens.sum().backward()
    assert [name for name, p in text_encoder.named_parameters() if p.requires_grad != (p.grad is not None)] == []
    assert text_encoder.tower.token_embedding.weight.requires_grad


def test_a_frozen_encoder_has_nothing_to_train():
    assert [name for name, p in encoder(trained=False).named_parameters() if p.requires_grad] == []


def test_the_small_encoder_has_defaults_that_work():
    text_encoder = small()
    conditioning = text_encoder(Captions(text_encoder.tokenize(CAPTIONS)))
    assert conditioning.tokens.shape == (3, 16, 128)
    assert conditioning.vector.shape == (3, 128)
    assert text_encoder.trained


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
        projected = text_encoder(Captions(tokens)).vector @ model.text_projection
        assert_close(projected, model.encode_text(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        "ViT-of-nowhere",
        "openai",
    ],
)
def test_an_unknown_model_is_refused_by_name(model):
    with pytest.raises(ValueError, match=f"text_encoder.model={model} is not known"):
        clip(model=model, weights="openai", pad_token=0)


def test_unknown_weights_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"text_encoder\.weights=nowhere\.pt is neither .* of ViT-L-14 .*openai"):
        clip(model="ViT-L-14", weights="nowhere.pt", pad_token=0)


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cannot load text_encoder.weights=.*weights.pt"):
        clip(model="ViT-S-32-alt", weights=str(path), pad_token=0)
