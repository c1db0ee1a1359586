"""A ControlNet has diffusers' weights and computes what its ControlNetModel does, next to the same U-Net."""

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.testing import assert_close

from ldm_train.networks.controlnet import ControlNet
from ldm_train.networks.unet import UNet
from ldm_train.types import Conditioning
from ldm_train.weights.layouts.control_layout import (
    build_control_config,
    map_control_from_diffusers,
    map_control_to_diffusers,
)
from ldm_train.weights.layouts.unet_config import build_unet_config
from ldm_train.weights.layouts.unet_layout import convert_unet_to_diffusers

SETTINGS = {
    "channels": [64, 64, 128],
    "attention": [True, True, False],
    "blocks": 2,
    "middle_attention": True,
    "expansion": 4,
    "in_channels": 4,
    "map_channels": 0,
    "context_width": 24,
    "vector_width": None,
    "patch_size": 1,
    "extra_up_block": True,
    "dropout": 0.0,
}
SHAPES = {  # of Stable Diffusion 1.x and 2.x, and with more
    "1.x": ({"heads": 4, "scale_shift": False}, [4, 4, 4], False),
    "2.x": ({"head_size": 16, "scale_shift": False}, [4, 4, 8], True),
    "only cross": ({"heads": 4, "scale_shift": True, "only_cross_attention": [True, False, False]}, [4, 4, 4], False),
}


def randomize(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(params=list(SHAPES))
def both(request: pytest.FixtureRequest) -> tuple[UNet, UNet2DConditionModel, ControlNetModel]:
    """Our network with its ControlNet, and diffusers' two with the same weights."""
    more, heads, linear = SHAPES[request.param]
    ours = UNet(**(SETTINGS | more))
    randomize(ours)
    plain = ours.state_dict()
    own = SETTINGS | {"heads": heads, "only_cross_attention": [False] * 3} | {k: v for k, v in more.items() if k != "heads"}
    unet_config = build_unet_config(own, linear_projection=linear, sample_size=8)  # type: ignore[arg-type]
    unet = UNet2DConditionModel.from_config(unet_config)
    unet.load_state_dict(convert_unet_to_diffusers(plain, plain, linear_projection=linear))
    ControlNet([8, 12, 16, 20]).attach(ours, channels=3, factor=8, seed=0)
    randomize(ours.control)
    state = ours.control.state_dict()
    config = build_control_config(unet_config, channels=3, widths=[8, 12, 16, 20])
    control = ControlNetModel.from_config(config)
    table = map_control_to_diffusers(state, plain, linear_projection=linear)
    control.load_state_dict({name: piece(state) for name, piece in table.items()})
    back = map_control_from_diffusers(state, plain)
    assert all(torch.equal(piece(control.state_dict()), state[name]) for name, piece in back.items())
    assert back.keys() == state.keys()
    return ours.eval(), unet.eval(), control.eval()


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_it_computes_what_diffusers_computes(both: tuple[UNet, UNet2DConditionModel, ControlNetModel], scale: float) -> None:
    ours, unet, control = both
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x_t, t, tokens, hint = draw(2, 4, 8, 16), torch.tensor([3.0, 900.0]), draw(2, 5, 24), draw(2, 3, 64, 128).sigmoid()
    added, more = control(x_t, t, tokens, hint, conditioning_scale=scale, return_dict=False)
    expected = unet(
        x_t, t, tokens, down_block_additional_residuals=added, mid_block_additional_residual=more, return_dict=False
    )[0]
    ours.control.scale = scale
    conditioning = Conditioning(tokens=tokens, control=hint, controlled=torch.tensor([True, True]))
    actual = ours(x_t, t, conditioning)
    assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.std().item())
    plain = unet(x_t, t, tokens, return_dict=False)[0]
    assert (expected - plain).std() > 0.1 * expected.std(), "a ControlNet that adds nothing shows nothing"
