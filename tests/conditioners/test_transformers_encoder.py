"""Text encoders of `transformers`: what they compute is what transformers computes, stored or not, padded or not."""

import re
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from ldm_train.conditioners.transformers_encoder import load_transformers
from ldm_train.types import CaptionBatch
from tests.conditioners.tiny_text_models import LAYERS, write_bert, write_clip, write_t5

CAPTIONS = ["a red fox under the tree", "", "two small cat and a dog"]
LENGTH = 9


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "t5": write_t5(folder / "t5"),
        "bert": write_bert(folder / "bert"),
        "clip": write_clip(folder / "clip"),
        "projected": write_clip(folder / "projected", projected=True),
    }


MODELS = {
    "t5": transformers.T5EncoderModel,
    "bert": transformers.BertModel,
    "clip": transformers.CLIPTextModel,
    "projected": transformers.CLIPTextModelWithProjection,
}
EACH = pytest.mark.parametrize("kind", MODELS)


def published(folder, kind, *, mask=True, layer=-1):
    """What transformers computes of the captions: hidden states, all of its output, and the mask."""
    batch = transformers.AutoTokenizer.from_pretrained(folder)(
        CAPTIONS, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        output = (
            MODELS[kind]
            .from_pretrained(folder)
            .eval()(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask if mask else None, output_hidden_states=True
            )
        )
    states = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    return states, output, batch.attention_mask.bool()


def conditioning(encoder, captions=CAPTIONS):
    return encoder(CaptionBatch(encoder.tokenize(captions)))


@EACH
@pytest.mark.parametrize("layer", [-1, -2])
def test_tokens_and_mask_are_those_of_transformers(folders, kind, layer):
    states, _, mask = published(folders[kind], kind, layer=layer)
    found = conditioning(load_transformers(weights=str(folders[kind]), max_length=LENGTH, layer=layer))
    assert found.vector is None
    assert torch.equal(found.mask, mask)
    assert_close(found.tokens[mask], states[mask])


@EACH
def test_without_a_mask_padding_is_seen_as_transformers_sees_it(folders, kind):
    states, _, _ = published(folders[kind], kind, mask=False)
    found = conditioning(load_transformers(weights=str(folders[kind]), max_length=LENGTH, mask=False))
    assert found.mask is None
    assert_close(found.tokens, states)


def test_the_vector_is_the_pooled_output_or_the_mean_of_the_tokens(folders):
    found = {kind: load_transformers(weights=str(folders[kind]), max_length=LENGTH, pooled=True) for kind in MODELS}
    vectors = {kind: conditioning(encoder).vector for kind, encoder in found.items()}
    assert {kind: encoder.vector_width for kind, encoder in found.items()} == {
        "t5": 16,
        "bert": 24,
        "clip": 16,
        "projected": 12,
    }
    assert_close(vectors["bert"], published(folders["bert"], "bert")[1].pooler_output)
    assert_close(vectors["clip"], published(folders["clip"], "clip")[1].pooler_output)
    assert_close(vectors["projected"], published(folders["projected"], "projected")[1].text_embeds)
    states, _, mask = published(folders["t5"], "t5")
    means = torch.stack([row[keep].mean(0) for row, keep in zip(states, mask, strict=True)])
    assert_close(vectors["t5"], means)


@EACH
def test_longer_padding_changes_no_token(folders, kind):
    short, long = (
        conditioning(load_transformers(weights=str(folders[kind]), max_length=length, pooled=True)) for length in (9, 16)
    )
    assert_close(long.tokens[:, :9], short.tokens)
    assert_close(long.vector, short.vector)
    assert not long.mask[:, 9:].any()


@EACH
def test_stored_embeddings_condition_as_captions_do(folders, kind):
    encoder = load_transformers(weights=str(folders[kind]), max_length=LENGTH, pooled=True)
    tokens = encoder.tokenize(CAPTIONS)
    rows = encoder.embed(tokens)
    assert rows.shape[1:] == encoder.embedding_shape
    expected, found = encoder(CaptionBatch(tokens)), encoder(CaptionBatch(tokens.int(), rows))
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.vector, expected.vector)
    assert torch.equal(found.mask, expected.mask)
    encoder.keep_only(CAPTIONS)
    kept = conditioning(encoder)
    assert_close(kept.tokens, expected.tokens)
    assert_close(kept.vector, expected.vector)
    with pytest.raises(ValueError, match="keep_only"):
        conditioning(encoder, ["a caption that it did not get"])


def test_a_frozen_encoder_has_no_dropout_while_the_network_trains(folders):
    encoder = load_transformers(weights=str(folders["t5"]), max_length=LENGTH).train()
    assert torch.equal(conditioning(encoder).tokens, conditioning(encoder).tokens)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_captions_are_counted_without_special_tokens(folders):
    encoder = load_transformers(weights=str(folders["bert"]), max_length=6)
    assert encoder.capacity == 4
    assert encoder.count(CAPTIONS) == [6, 0, 6]


def test_the_identity_is_of_what_decides_the_embeddings(folders, tmp_path):
    def identity(folder, **settings):
        return load_transformers(weights=str(folder), **{"max_length": LENGTH, **settings}).identity

    first = identity(folders["t5"])
    moved = shutil.copytree(folders["t5"], tmp_path / "moved")
    assert identity(moved) == first
    for settings in ({"max_length": 8}, {"layer": -2}, {"pooled": True}, {"mask": False}):
        assert identity(folders["t5"], **settings) != first
    assert identity(write_t5(tmp_path / "other", seed=5)) != first
    rules = moved / "tokenizer.json"
    rules.write_text(rules.read_text().replace('"fox"', '"fix"'))
    assert identity(moved) != first


def test_a_pipeline_has_its_tokenizer_in_a_folder_of_its_own(folders, tmp_path):
    pipeline = tmp_path / "pipeline"
    (pipeline / "tokenizer_2").mkdir(parents=True)
    shutil.copytree(folders["projected"], pipeline / "text_encoder_2")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.move(pipeline / "text_encoder_2" / file, pipeline / "tokenizer_2" / file)
    expected = load_transformers(weights=str(folders["projected"]), max_length=LENGTH)
    by_subfolder = load_transformers(weights=str(pipeline), subfolder="text_encoder_2", max_length=LENGTH)
    by_folder = load_transformers(weights=str(pipeline / "text_encoder_2"), max_length=LENGTH)
    assert by_subfolder.identity == by_folder.identity == expected.identity


def test_settings_outside_of_the_model_are_refused(folders):
    for settings, named in (
        ({"max_length": 33}, r"max_length=33.*3 to 32"),
        ({"max_length": 2}, "max_length=2.*3 to 32"),
        ({"max_length": 8, "layer": 0}, f"layer=0.*-{LAYERS + 1} to -1"),
        ({"max_length": 8, "layer": -9}, f"layer=-9.*-{LAYERS + 1} to -1"),
    ):
        with pytest.raises(ValueError, match=named):
            load_transformers(weights=str(folders["bert"]), **settings)


def test_weights_that_are_missing_or_unsafe_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match=re.escape("text_encoder.weights=nowhere is neither a folder")):
        load_transformers(weights="nowhere")
    lacking = shutil.copytree(folders["bert"], tmp_path / "lacking")
    tensors = load_file(lacking / "model.safetensors")
    save_file({name: one for name, one in tensors.items() if "pooler" not in name}, lacking / "model.safetensors")
    assert load_transformers(weights=str(lacking), max_length=8).vector_width is None
    with pytest.raises(ValueError, match=r"pooler.*pooled=false"):
        load_transformers(weights=str(lacking), max_length=8, pooled=True)
    save_file({name: one for name, one in tensors.items() if "layer.1." not in name}, lacking / "model.safetensors")
    with pytest.raises(ValueError, match=r"layer\.1"):
        load_transformers(weights=str(lacking), max_length=8)
    pickled = shutil.copytree(folders["bert"], tmp_path / "pickled")
    torch.save(tensors, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="safetensors"):
        load_transformers(weights=str(pickled), max_length=8)
