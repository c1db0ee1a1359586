"""Autoencoders behind their interface, weights out and back, and the scale of latents."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train.autoencoders.autoencoder import SHIPPED, IdentityAutoencoder, NewKLAutoencoder, pretrained
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.weights.fingerprint import fingerprint_module

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def new(*, seed=0, **changes):
    return NewKLAutoencoder([8, 16, 16], groups=4, **changes).initialise(seed).eval()


@pytest.fixture
def saved(tmp_path):
    """An autoencoder and the folder that it was saved to."""
    autoencoder = new()
    autoencoder.save(tmp_path / "autoencoder", shift=0.25, scale=1.7)
    return autoencoder, str(tmp_path / "autoencoder")


def test_the_identity_keeps_pictures():
    identity = IdentityAutoencoder()
    moments = identity.encode(IMAGES)
    assert moments.log_variance is None
    assert_close(identity.decode(moments.draw(torch.ones_like(IMAGES))), IMAGES, rtol=0, atol=0)
    assert (identity.channels, identity.factor) == (3, 1)
    assert Scaling.of(identity) == Scaling(shift=0.0, scale=1.0)


@pytest.mark.parametrize(("channels", "factor"), [([8], 1), ([8, 16], 2), ([8, 16, 16], 4)])
def test_the_shapes_are_as_its_factor_and_channels_say(channels, factor):
    autoencoder = NewKLAutoencoder(channels, groups=4, latent_channels=5)
    moments = autoencoder.encode(IMAGES)
    assert (autoencoder.channels, autoencoder.factor) == (5, factor)
    assert moments.mean.shape == moments.log_variance.shape == (2, 5, 16 // factor, 16 // factor)
    assert autoencoder.decode(moments.mean).shape == IMAGES.shape


@pytest.mark.parametrize("pixels", [1, 2 * 16**2])
def test_a_batch_is_decoded_in_parts_that_fit(monkeypatch, pixels):
    autoencoder, decoded = new(), []
    raw = autoencoder.encode(IMAGES.repeat(2, 1, 1, 1)[:3]).mean
    whole = autoencoder.decode(raw)
    autoencoder.model.decoder.register_forward_hook(lambda *called: decoded.append(len(called[1][0])))
    monkeypatch.setattr("ldm_train.autoencoders.autoencoder.PIXELS_AT_ONCE", pixels)
    assert_close(autoencoder.decode(raw), whole)
    assert decoded == ([1, 1, 1] if pixels == 1 else [2, 1])


def test_the_posterior_is_drawn_with_its_own_deviation():
    moments = new().encode(IMAGES)
    assert_close(moments.draw(torch.zeros_like(moments.mean)), moments.mean)
    deviation = moments.draw(torch.ones_like(moments.mean)) - moments.mean
    assert_close(deviation.square().log(), moments.log_variance, rtol=0, atol=1e-3)


def test_saved_and_loaded_it_is_the_same_bit_for_bit(saved):
    autoencoder, folder = saved
    loaded = pretrained(folder)
    assert_close(loaded.state_dict(), autoencoder.state_dict(), rtol=0, atol=0)
    assert_close(vars(loaded.encode(IMAGES)), vars(autoencoder.encode(IMAGES)), rtol=0, atol=0)
    assert Scaling.of(loaded) == Scaling(shift=0.25, scale=1.7)
    assert (loaded.channels, loaded.factor) == (4, 4)


def test_the_files_are_safetensors(saved, tmp_path):
    names = sorted(path.name for path in (tmp_path / "autoencoder").iterdir())
    assert names == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_loaded_it_is_frozen(saved):
    loaded = pretrained(saved[1])
    assert not loaded.model.training
    assert [name for name, p in loaded.named_parameters() if p.requires_grad] == []


def test_shift_and_scale_given_replace_the_files_own(saved):
    assert Scaling.of(pretrained(saved[1], scale=2.0)) == Scaling(shift=0.25, scale=2.0)
    assert Scaling.of(pretrained(saved[1], shift=0.0, scale=3.0)) == Scaling(shift=0.0, scale=3.0)


@pytest.mark.parametrize("weights", sorted(folder.name for folder in SHIPPED.iterdir()))
def test_the_shipped_ones_load_by_name(weights):
    autoencoder = pretrained(weights)
    raw = autoencoder.encode(IMAGES).mean
    assert raw.shape == (2, autoencoder.channels, 16 // autoencoder.factor, 16 // autoencoder.factor)
    assert autoencoder.decode(raw).shape == IMAGES.shape
    assert autoencoder.scale != 1.0


def test_a_subfolder_is_found(saved, tmp_path):
    assert_close(pretrained(str(tmp_path), subfolder="autoencoder").state_dict(), saved[0].state_dict(), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument:UserWarning")  # diffusers' own call of the hub
@pytest.mark.parametrize("weights", ["no/such/folder", "empty", "somebody/autoencoder"])
def test_what_holds_no_weights_is_refused_by_name(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=f"autoencoder.weights={weights} is neither shipped"):
        pretrained(weights)


def test_the_seed_alone_decides_the_first_weights():
    torch.manual_seed(1)
    first = new(seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    autoencoder = NewKLAutoencoder([8, 16, 16], groups=4)
    built = torch.get_rng_state()
    second = autoencoder.initialise(5)
    assert not torch.equal(state, built)
    assert_close(torch.get_rng_state(), built, rtol=0, atol=0)
    assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)
    assert fingerprint_module(first) != fingerprint_module(new(seed=6))


def test_every_residual_block_starts_as_the_identity():
    block = new().model.decoder.mid_block.resnets[0]
    x = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    assert_close(block(x), x)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(shift=st.floats(-5, 5), scale=st.floats(0.05, 20))
def test_scaling_is_undone(shift, scale):
    raw = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaling = Scaling(shift, scale)
    assert_close(scaling.to_raw(scaling.to_model(raw)), raw)


def test_measured_scaling_gives_latents_of_mean_0_and_deviation_1():
    raw = 3 + 0.2 * torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    latents = Scaling.measured(raw).to_model(raw)
    assert_close(latents.mean(), torch.tensor(0.0), rtol=0, atol=1e-4)
    assert_close(latents.std(), torch.tensor(1.0), rtol=1e-4, atol=0)
