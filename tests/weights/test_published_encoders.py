"""Published autoencoders and text encoders load from every layout and compute what they did, padding included."""

import json
from copy import deepcopy

import open_clip
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint, convert_open_clip_checkpoint
from open_clip.transformer import TextTransformer
from torch.testing import assert_close
from transformers import CLIPTextConfig, CLIPTextModel

from ldm_train.autoencoders.autoencoder import pretrained
from ldm_train.conditioners.text_encoder import clip
from ldm_train.weights.fingerprint import digest_weights, fingerprint_module
from ldm_train.weights.layouts import autoencoder_layout, text_layout

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
CAPTIONS = ["a red apple", "", "two cats and a dog under the old oak tree"]
END = 49407
WIDTH, LAYERS, HEADS, LENGTH = 32, 3, 4, 12


def single(model):
    """An autoencoder in latent-diffusion's layout."""
    table = autoencoder_layout.map_autoencoder_to_single_file(model.state_dict())
    return {name: piece(model.state_dict()) for name, piece in table.items()}


def test_an_autoencoder_s_folder_computes_what_it_did(autoencoder, tmp_path):
    autoencoder.save_pretrained(tmp_path / "vae")
    loaded = pretrained(str(tmp_path))
    with torch.no_grad():
        expected = autoencoder.encode(IMAGES).latent_dist
        assert_close(loaded.encode(IMAGES).mean, expected.mean, rtol=1e-5, atol=1e-6)
        assert_close(loaded.decode(expected.mean), autoencoder.decode(expected.mean).sample, rtol=1e-5, atol=1e-6)
    assert (loaded.scale, loaded.factor, loaded.channels) == (0.3, 2, 4)
    assert "diffusers' layout" in loaded.notes[0]


@pytest.mark.parametrize("prefix", ["first_stage_model.", "", "vae."])
@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_an_autoencoder_s_single_file_is_the_same_bit_for_bit(prefix, ending, autoencoder, saved, tmp_path):
    state = {prefix + name.removeprefix("first_stage_model."): tensor for name, tensor in single(autoencoder).items()}
    if prefix == "first_stage_model.":
        state |= {"model.diffusion_model.out.0.bias": torch.zeros(1), "cond_stage_model.x": torch.zeros(1)}
    loaded = pretrained(str(saved(state, f"vae.{ending}")), scale=0.3)
    assert_close(loaded.model.state_dict(), autoencoder.state_dict(), rtol=0, atol=0)
    assert "latent-diffusion's layout" in loaded.notes[0]


def test_the_single_file_s_names_are_those_that_diffusers_reads(autoencoder):
    read = convert_ldm_vae_checkpoint(single(autoencoder), autoencoder.config)
    assert_close(read, dict(autoencoder.state_dict()), rtol=0, atol=0)
    assert set(single(autoencoder)) >= {
        "first_stage_model.encoder.mid.attn_1.q.weight",
        "first_stage_model.decoder.up.1.upsample.conv.weight",
        "first_stage_model.decoder.mid.attn_1.proj_out.bias",
        "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight",
        "first_stage_model.encoder.norm_out.weight",
    }


@pytest.mark.parametrize("convolutions", [False, True])
def test_old_folders_names_are_read(convolutions, autoencoder, saved, tmp_path):
    from safetensors.torch import save_file

    autoencoder.save_pretrained(tmp_path)
    old = {new: name for name, new in autoencoder_layout.OLD_ATTENTION.items()}
    state = {}
    for name, tensor in autoencoder.state_dict().items():
        if ".attentions." in name and (found := next((new for new in old if f".{new}." in name), None)):
            name = name.replace(found, old[found])
            tensor = tensor[:, :, None, None] if convolutions and tensor.ndim == 2 else tensor
        state[name] = tensor.clone()
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    assert any(".query." in name for name in state)
    assert_close(pretrained(str(tmp_path)).model.state_dict(), autoencoder.state_dict(), rtol=0, atol=0)


def test_half_precision_and_shards_of_an_autoencoder(autoencoder, in_shards, tmp_path):
    deepcopy(autoencoder).half().save_pretrained(tmp_path / "half", variant="fp16")
    expected = {name: tensor.half().float() for name, tensor in autoencoder.state_dict().items()}
    assert_close(pretrained(str(tmp_path / "half")).model.state_dict(), expected, rtol=0, atol=0)
    autoencoder.save_pretrained(tmp_path / "shards")
    loaded = pretrained(str(in_shards(tmp_path / "shards", "diffusion_pytorch_model")))
    assert_close(loaded.model.state_dict(), autoencoder.state_dict(), rtol=0, atol=0)


def test_a_file_s_unknown_scale_is_asked_for(autoencoder, saved):
    with pytest.raises(ValueError, match=r"vae\.safetensors.*autoencoder\.scale="):
        pretrained(str(saved(single(autoencoder), "vae.safetensors")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("first_stage_model.decoder.norm_out.bias"), r"decoder.conv_norm_out.bias \(missing\)"),
        (
            lambda state: state.update({"first_stage_model.encoder.down.0.attn.0.q.weight": torch.zeros(1)}),
            r"encoder.down.0.attn.0.q.weight \(left over\)",
        ),
        (
            lambda state: state.update({"first_stage_model.decoder.conv_in.bias": torch.zeros(3)}),
            r"\(3,\) where the network",
        ),
    ],
)
def test_what_does_not_fit_an_autoencoder_is_listed(change, message, autoencoder, saved):
    state = single(autoencoder)
    change(state)
    with pytest.raises(ValueError, match=rf"autoencoder\.weights=.*{message}"):
        pretrained(str(saved(state, "vae.safetensors")), scale=1.0)


@pytest.fixture(scope="module", autouse=True)
def small_model(tmp_path_factory):
    """An architecture of open_clip's registry that is small enough, with either activation."""
    folder = tmp_path_factory.mktemp("models")
    text = {"context_length": LENGTH, "vocab_size": 49408, "width": WIDTH, "heads": HEADS, "layers": LAYERS}
    vision = {"image_size": 16, "layers": 1, "width": 32, "patch_size": 16}
    for name, quick in (("tiny-test", False), ("tiny-test-quickgelu", True)):
        content = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "quick_gelu": quick}
        (folder / f"{name}.json").write_text(json.dumps(content))
    open_clip.add_model_config(folder)
    yield
    from open_clip import factory

    for name in ("tiny-test", "tiny-test-quickgelu"):
        factory._MODEL_CONFIGS.pop(name)
    factory._MODEL_CONFIG_PATHS.remove(folder)


def text_model(*, layers=LAYERS, act="quick_gelu"):
    """transformers' text model, all of whose numbers are random."""
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        hidden_act=act,
        eos_token_id=END,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = CLIPTextModel(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def settings(**changes):
    return {"model": "tiny-test-quickgelu", "pad_token": END, "pooled": True} | changes


def check_states(encoder, model, *, penultimate=False):
    """The same hidden states as transformers', from captions of any length with their padding."""
    tokens = encoder.tokenize(CAPTIONS)
    with torch.no_grad():
        states = encoder.embed(tokens)
        output = model(tokens, output_hidden_states=True)
        norm = model.final_layer_norm if hasattr(model, "final_layer_norm") else model.text_model.final_layer_norm
        expected = norm(output.hidden_states[-2]) if penultimate else output.last_hidden_state
    assert (states - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("pad_token", [0, END])
@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_a_clip_text_model_s_folder_computes_what_it_did(layer, pad_token, tmp_path):
    model = text_model()
    model.save_pretrained(tmp_path / "text_encoder")
    encoder = clip(weights=str(tmp_path), **settings(layer=layer, pad_token=pad_token))
    assert (encoder.tokenize([""])[0, 2:] == pad_token).all()
    check_states(encoder, model, penultimate=layer == "penultimate")
    assert "transformers' layout" in encoder.notes[0]


def test_a_folder_without_the_last_layer_is_the_penultimate_one(tmp_path):
    """As Stable Diffusion 2.x is published."""
    model = text_model(layers=LAYERS - 1, act="gelu")
    model.save_pretrained(tmp_path)
    encoder = clip(weights=str(tmp_path), **settings(model="tiny-test", pad_token=0, layer="penultimate"))
    check_states(encoder, model)
    with pytest.raises(ValueError, match="layers=2 there and 3 here"):
        clip(weights=str(tmp_path), **settings(model="tiny-test"))


@pytest.mark.parametrize(
    "prefix", ["cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.", "text_model.", ""]
)
@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_transformers_names_in_a_file_are_read_with_and_without_their_head(prefix, ending, saved, tmp_path):
    model = text_model()
    state = {prefix + name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    state[f"{prefix}embeddings.position_ids"] = torch.arange(LENGTH)[None]
    if prefix.startswith("cond"):
        state["model.diffusion_model.out.0.bias"] = torch.zeros(1)
    encoder = clip(weights=str(saved(state, f"text.{ending}")), **settings())
    check_states(encoder, model)
    model.save_pretrained(tmp_path / "folder")
    assert fingerprint_module(encoder) == fingerprint_module(clip(weights=str(tmp_path / "folder"), **settings()))


def tower():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        made = TextTransformer(context_length=LENGTH, width=WIDTH, heads=HEADS, layers=LAYERS, output_dim=24).eval()
        for parameter in made.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("prefix", ["cond_stage_model.model.", "module.", "text.", ""])
def test_open_clip_s_names_are_read(prefix, saved):
    own = tower()
    others = {"logit_scale": torch.zeros(()), "visual.conv1.weight": torch.zeros(2)}
    if prefix == "cond_stage_model.model.":
        state = {prefix + name: tensor for name, tensor in (own.state_dict() | {"logit_scale": torch.zeros(())}).items()}
    elif prefix == "module.":
        state = {prefix + name: tensor for name, tensor in (own.state_dict() | others).items()}
    else:
        state = {prefix + name: tensor for name, tensor in own.state_dict().items()} | others
    encoder = clip(weights=str(saved(state, "clip.safetensors")), **settings(model="tiny-test", layer="penultimate"))
    expected = {name: tensor for name, tensor in own.state_dict().items() if name != "text_projection"}
    assert_close(dict(encoder.tower.state_dict()), expected, rtol=0, atol=0)
    assert "open_clip's layout" in encoder.notes[0]


def test_the_table_of_text_names_is_diffusers_s():
    own = {name: tensor for name, tensor in tower().state_dict().items() if name != "text_projection"}
    table = text_layout.map_text_encoder_to_transformers(own)
    theirs = {name: piece(own) for name, piece in table.items()}
    prefix = "cond_stage_model.model."
    model = text_model(act="gelu")
    read = convert_open_clip_checkpoint(model, {prefix + name: tensor for name, tensor in own.items()}, prefix=prefix)
    assert_close(read, theirs, rtol=0, atol=0)
    back = {name: piece(theirs) for name, piece in text_layout.map_text_encoder_from_published(own, theirs).items()}
    assert_close(back, own, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "tiny-test"}, "quick_gelu=True there and False here"),
        ({"model": "ViT-S-32-alt"}, "width=32 there and 256 here"),
    ],
)
def test_a_text_encoder_of_another_architecture_is_reported(changes, message, tmp_path):
    text_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"text_encoder\.weights=.*text_encoder\.model: .*{message}"):
        clip(weights=str(tmp_path), **settings(**changes))


@pytest.mark.parametrize(("word", "padding"), [("<|endoftext|>", END), ("!", 0)])
@pytest.mark.parametrize("nested", [False, True])
def test_the_padding_is_that_of_the_pipeline_s_tokenizer(word, padding, nested, tmp_path):
    text_model().save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    content = {"pad_token": {"content": word} if nested else word}
    (tmp_path / "tokenizer/tokenizer_config.json").write_text(json.dumps(content))
    assert clip(weights=str(tmp_path), **settings(pad_token=padding)).pad_token == padding
    with pytest.raises(ValueError, match=rf"pads captions with {padding}, and text_encoder\.pad_token={END - padding}"):
        clip(weights=str(tmp_path), **settings(pad_token=END - padding))


def test_what_does_not_fit_a_text_encoder_is_listed(saved):
    state = dict(text_model().state_dict())
    head = "text_model." if any(name.startswith("text_model.") for name in state) else ""
    del state[f"{head}encoder.layers.1.self_attn.k_proj.bias"]
    state |= {f"{head}encoder.layers.1.extra.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"k_proj.bias \(missing\), .*extra.weight \(left over\)"):
        clip(weights=str(saved(state, "text.safetensors")), **settings())


def test_a_pipeline_s_digest_is_that_of_the_part_alone(autoencoder, tmp_path):
    autoencoder.save_pretrained(tmp_path / "vae")
    before = digest_weights(str(tmp_path), part="vae")
    assert before == digest_weights(str(tmp_path), "vae") == digest_weights(str(tmp_path / "vae"), part="vae")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text("{}")
    assert digest_weights(str(tmp_path), part="vae") == before
