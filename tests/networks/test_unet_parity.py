"""Our U-Net is Stable Diffusion's: the same numbers and gradients as diffusers' from the same weights."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from omegaconf import OmegaConf
from torch.testing import assert_close

import ldm_train.weights.layouts.unet_layout as layout
from ldm_train.networks.diffusers_unet import DiffusersUNet
from ldm_train.networks.unet import UNet
from ldm_train.settings.strict import READ_BY_RUN
from ldm_train.types import Conditioning

CONFIGS = Path(__file__).parents[2] / "conf/network"

ATTENDING = {
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
FLAGS = {"attention": [True, True, False], "middle_attention": True, "scale_shift": False}
# Each case: our settings, diffusers' settings of the same meaning (reference counts heads and calls it their size).
CASES = {
    "1.x": ({"heads": 4}, {"attention_head_dim": 4}),
    "2.x": ({"head_size": 16}, {"attention_head_dim": [4, 8, 8], "use_linear_projection": True}),
    "1.x inpainting": ({"heads": 4, "map_channels": 5}, {"attention_head_dim": 4, "map_channels": 5}),
    "scale and shift, a vector": (
        {"heads": 2, "scale_shift": True, "vector_width": 20},
        {"attention_head_dim": 2, "resnet_time_scale_shift": "scale_shift", "vector_width": 20},
    ),
    "two levels, one block": (
        {"heads": 2, "channels": [64, 96], "blocks": 1, "attention": [False, True]},
        {
            "attention_head_dim": 2,
            "block_out_channels": [64, 96],
            "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        },
    ),
}
EACH_CASE = pytest.mark.parametrize("case", CASES)


@cache
def pair(case):
    """Our network and diffusers' of the same random weights, in float64."""
    own, others = CASES[case]
    shared = {"in_channels": 4, "context_width": 48, "vector_width": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = DiffusersUNet(**({**shared, **ATTENDING, "block_out_channels": [64, 128, 128]} | others)).double()
        for parameter in reference.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        actual = UNet(**({**shared, **FLAGS, "channels": [64, 128, 128]} | own)).double()
    actual.load_state_dict(layout.convert_unet_from_diffusers(reference.unet.state_dict(), actual.state_dict()))
    return actual, reference


def results(network, case, dtype):
    """The output, and each parameter's gradient by its name."""
    generator = torch.Generator().manual_seed(1)
    x_t, maps, direction = torch.randn(2, 13, 8, 8, generator=generator).to(dtype).split([4, 5, 4], dim=1)
    tokens, vector = torch.randn(2, 7, 48, generator=generator), torch.randn(2, 20, generator=generator)
    conditioning = Conditioning(
        tokens=tokens.to(dtype),
        mask=torch.arange(7) < torch.tensor([[7], [4]]),
        vector=vector.to(dtype) if CASES[case][0].get("vector_width") else None,
        maps=maps if CASES[case][0].get("map_channels") else None,
    )
    network = deepcopy(network).to(dtype)
    output = network(x_t, torch.tensor([3, 981]), conditioning)
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad((output * direction).sum(), list(parameters.values()))
    return output.detach(), dict(zip(parameters, gradients, strict=True))


def projection(case):
    return {"linear_projection": CASES[case][1].get("use_linear_projection", False)}


@EACH_CASE
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-8)], ids=["float32", "float64"])
def test_outputs_and_gradients_are_those_of_diffusers(case, dtype, tolerance):
    actual, reference = pair(case)
    output, gradients = results(actual, case, dtype)
    expected, expected_gradients = results(reference, case, dtype)
    assert (output - expected).norm() <= tolerance * expected.norm()
    renamed = layout.convert_unet_to_diffusers(gradients, actual.state_dict(), **projection(case))
    assert {f"unet.{name}" for name in renamed} == set(expected_gradients)
    distances = {
        name: ((gradient - expected_gradients[f"unet.{name}"]).norm() / expected_gradients[f"unet.{name}"].norm()).item()
        for name, gradient in renamed.items()
    }
    assert {name: distance for name, distance in distances.items() if not distance <= tolerance} == {}


@EACH_CASE
def test_the_table_of_names_leads_there_and_back_bit_for_bit(case):
    actual, reference = (network.state_dict() for network in pair(case))
    reference = {name.removeprefix("unet."): tensor for name, tensor in reference.items()}
    renamed = layout.convert_unet_to_diffusers(actual, actual, **projection(case))
    assert_close(renamed, reference, rtol=0, atol=0)
    assert_close(layout.convert_unet_from_diffusers(renamed, actual), dict(actual), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "context_width", "others", "count"),
    [
        ("stable_diffusion_1", 768, {"attention_head_dim": 8}, 859_520_964),
        ("stable_diffusion_2", 1024, {"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}, 865_910_724),
    ],
)
def test_the_shipped_configurations_are_the_published_ones(name, context_width, others, count):
    settings = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    settings = {key: value for key, value in settings.items() if key not in {"_target_", *READ_BY_RUN["network"]}}
    with torch.device("meta"):
        actual = UNet(in_channels=4, context_width=context_width, vector_width=None, **settings)
        reference = UNet2DConditionModel(cross_attention_dim=context_width, **others)
    assert sum(parameter.numel() for parameter in actual.parameters()) == count
    renamed = layout.convert_unet_to_diffusers(
        actual.state_dict(), actual.state_dict(), linear_projection=others.get("use_linear_projection", False)
    )
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in reference.state_dict().items()
    }
