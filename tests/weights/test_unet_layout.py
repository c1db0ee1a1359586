"""The table of names refuses what does not fit, by name; tests/networks/test_unet_parity.py shows that it is right."""

import pytest
import torch

from ldm_train.networks.unet import UNet
from ldm_train.weights.layouts.unet_layout import convert_unet_from_diffusers, convert_unet_to_diffusers


def state(**changes):
    """The state of a tiny network without numbers."""
    settings = {"channels": [32, 64], "blocks": 1, "attention": [False, True], "head_size": 16} | changes
    with torch.device("meta"):
        return UNet(in_channels=4, context_width=12, vector_width=None, **settings).state_dict()


@pytest.fixture
def ours():
    return {name: torch.zeros(tensor.shape) for name, tensor in state().items()}


@pytest.fixture
def theirs(ours):
    return convert_unet_to_diffusers(ours, ours, linear_projection=False)


KEY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def test_a_missing_weight_is_named(ours, theirs):
    del theirs[KEY]
    with pytest.raises(ValueError, match=rf"{KEY} \(missing\)$"):
        convert_unet_from_diffusers(theirs, ours)


def test_a_weight_left_over_is_named(ours, theirs):
    theirs["down_blocks.1.resnets.1.conv1.bias"] = torch.zeros(64)
    with pytest.raises(ValueError, match=r"down_blocks.1.resnets.1.conv1.bias \(left over\)$"):
        convert_unet_from_diffusers(theirs, ours)


def test_a_weight_of_another_shape_is_named_with_both(ours, theirs):
    theirs[KEY] = torch.zeros(64, 13)
    with pytest.raises(ValueError, match=rf"{KEY} \(\(64, 13\) where the network has \(64, 12\)\)$"):
        convert_unet_from_diffusers(theirs, ours)


@pytest.mark.parametrize("name", ["proj_in", "proj_out"])
def test_a_projection_may_be_linear_or_a_1x1_convolution_and_no_other(ours, theirs, name):
    name = f"mid_block.attentions.0.{name}.weight"
    assert theirs[name].shape == (64, 64, 1, 1)
    convert_unet_from_diffusers(theirs | {name: torch.zeros(64, 64)}, ours)
    with pytest.raises(ValueError, match=rf"{name} \(\(64, 64, 3, 3\)"):
        convert_unet_from_diffusers(theirs | {name: torch.zeros(64, 64, 3, 3)}, ours)


def test_five_are_named_and_the_rest_counted(ours, theirs):
    for name in sorted(theirs)[:7]:
        del theirs[name]
    with pytest.raises(ValueError, match=r"(\(missing\).*){5} and 2 more$"):
        convert_unet_from_diffusers(theirs, ours)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_in.bias": None}, r"conv_in.bias \(missing\)$"),
        ({"conv_in.scale": torch.zeros(5)}, r"conv_in.scale \(left over\)$"),
        ({"conv_in.bias": torch.zeros(5)}, r"conv_in.bias \(\(5,\) where the network has \(32,\)\)$"),
    ],
)
def test_leaving_is_as_strict_as_coming(ours, changes, message):
    changed = {name: tensor for name, tensor in (ours | changes).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        convert_unet_to_diffusers(changed, state(), linear_projection=True)


@pytest.mark.parametrize("attention", [[False, True], [False]])
def test_a_network_without_the_extra_up_block_is_refused(attention):
    like = state(extra_up_block=False, channels=[32, 64][: len(attention)], attention=attention)
    with pytest.raises(ValueError, match=r"network\.extra_up_block=false"):
        convert_unet_to_diffusers(like, like, linear_projection=True)


@pytest.mark.parametrize("name", ["down_blocks.0.resnets.0.conv1.weight", "down.0.residual.conv_1.lora_A.weight", "unet.x"])
def test_names_that_are_not_our_networks_are_refused(ours, name):
    with pytest.raises(ValueError, match=f"no place for {name}"):
        convert_unet_from_diffusers(ours, {**ours, name: torch.zeros(1)})


def test_what_leaves_shares_no_memory(ours, theirs):
    """safetensors refuses tensors that do."""
    pointers = [tensor.untyped_storage().data_ptr() for tensor in [*ours.values(), *theirs.values()]]
    assert len(set(pointers)) == len(pointers)
