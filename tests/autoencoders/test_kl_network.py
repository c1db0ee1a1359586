"""The network of an autoencoder, bit for bit diffusers'."""

import json

import pytest
import torch
from diffusers import AutoencoderKL

from ldm_train.autoencoders.autoencoder import KLAutoencoder
from ldm_train.autoencoders.kl_network import KLConfig, KLNetwork, read_config

SIZES = {"block_out_channels": (8, 16, 16), "norm_num_groups": 4, "layers_per_block": 2, "latent_channels": 3}
TYPES = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
CONFIGS = [
    {},
    {"mid_block_add_attention": False, "use_quant_conv": False},
    {"use_post_quant_conv": False, "shift_factor": 0.5, "scaling_factor": 2.0},
    {"block_out_channels": (8,), "down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)},
]


def build_both(changes):
    config, states = {**SIZES, **TYPES, **changes}, []
    with torch.random.fork_rng():
        models = []
        for make in (lambda: KLNetwork(KLConfig(**config)), lambda: AutoencoderKL(**config)):
            torch.manual_seed(0)
            models.append(make())
            states.append(torch.get_rng_state())
    assert torch.equal(*states)
    return models


@pytest.mark.parametrize("changes", CONFIGS)
def test_names_first_weights_and_config_are_diffusers(changes):
    own, published = build_both(changes)
    assert [*own.state_dict()] == [*published.state_dict()]
    assert all(torch.equal(tensor, published.state_dict()[name]) for name, tensor in own.state_dict().items())
    assert own.to_json_string() == published.to_json_string()
    assert read_config(json.loads(published.to_json_string())) is not None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("changes", CONFIGS)
def test_moments_pictures_and_gradients_are_diffusers(changes, training):
    models = [model.train(training) for model in build_both(changes)]
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = []
    for model in models:
        autoencoder = KLAutoencoder(model)
        moments = autoencoder.encode(images)
        drawn = autoencoder.decode(moments.mean + moments.log_variance)
        drawn.square().mean().backward()
        found.append([moments.mean, moments.log_variance, drawn, *(p.grad for p in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    posterior = models[1].encode(images).latent_dist
    assert torch.equal(found[0][0], posterior.mean)
    assert torch.equal(found[0][1], posterior.logvar)
    assert torch.equal(found[0][2], models[1].decode(posterior.mean + posterior.logvar).sample)


@pytest.mark.parametrize(
    "other", [{"act_fn": "gelu"}, {"down_block_types": ["AttnDownEncoderBlock2D"]}, {"up_block_types": []}, {"later": 1}]
)
def test_other_networks_are_left_to_diffusers(other):
    assert read_config({"_class_name": "AutoencoderKL"}) == KLConfig()
    assert read_config(other) is None
