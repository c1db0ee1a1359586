"""A ControlNet starts as nothing, is trained apart from the frozen network, and does nothing where there is no map."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ldm_train.networks import DiffusersUNet
from ldm_train.networks.controlnet import ControlNet
from ldm_train.networks.unet import UNet
from ldm_train.types import Conditioning

SHAPES = ["published", "folded", "vector", "diffusers"]


def make_network(shape: str = "published") -> nn.Module:
    """A tiny network of random weights, whose output is not zero."""
    torch.manual_seed(0)
    settings = {"in_channels": 4, "context_width": 16, "vector_width": 8 if shape == "vector" else None}
    if shape == "diffusers":
        made: nn.Module = DiffusersUNet(
            **settings,
            block_out_channels=[32, 64],
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
            layers_per_block=1,
            attention_head_dim=4,
        )
    else:
        folded = {"patch_size": 2, "extra_up_block": False} if shape == "folded" else {}
        made = UNet(**settings, channels=[16, 32], attention=[False, True], head_size=8, **folded)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made


def attach(network: nn.Module, *, factor: int = 4, widths: Sequence[int] | None = None) -> nn.Module:
    ControlNet(widths).attach(network, channels=3, factor=factor, seed=5)
    assert isinstance(network.control, nn.Module)
    return network.control


def shake(module: nn.Module) -> None:
    """Give a ControlNet weights as if it had been trained."""
    generator = torch.Generator().manual_seed(4)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def output(network: nn.Module, controlled: Sequence[bool] = (True, True)) -> Tensor:
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    conditioning = Conditioning(
        tokens=draw(2, 5, 16),
        control=draw(2, 3, 32, 48).sigmoid(),
        controlled=torch.tensor(controlled),
        vector=draw(2, 8) if getattr(network, "vector_width", None) else None,
    )
    return network(draw(2, 4, 8, 12), torch.tensor([3.0, 700.0]), conditioning)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [False, True])
def test_it_starts_as_nothing_bit_for_bit(shape: str, training: bool) -> None:
    network = make_network(shape).train(training)
    before = output(network)
    attach(network)
    assert torch.equal(output(network), before)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_it_learns_and_the_frozen_network_gets_no_gradients(shape: str) -> None:
    network = make_network(shape).requires_grad_(False)
    control = attach(network).requires_grad_(True)
    shake(control)  # at the start only the zero convolutions have gradients
    output(network).square().mean().backward()
    names = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert names == {f"control.{name}" for name, _ in control.named_parameters()}
    assert all(parameter.grad.abs().sum() > 0 for parameter in control.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_an_example_without_a_map_is_drawn_by_the_frozen_network(shape: str) -> None:
    network = make_network(shape)
    before = output(network)
    shake(attach(network))
    mixed, both = output(network, (True, False)), output(network)
    assert_close(mixed[0], both[0])
    assert_close(mixed[1], before[1])
    assert not torch.allclose(both[1], before[1], atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_its_scale_is_from_the_frozen_network_to_all_of_it(shape: str) -> None:
    network = make_network(shape)
    before = output(network)
    control = attach(network)
    shake(control)
    full = output(network)
    control.scale = 0.0
    assert torch.equal(output(network), before)
    control.scale = 0.5
    assert (output(network) - before).abs().mean() < (full - before).abs().mean()


def test_the_seed_decides_its_first_weights_and_no_other_draw() -> None:
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    first, second = make_network(), make_network()
    torch.manual_seed(7)
    one, other = attach(first).state_dict(), attach(second).state_dict()
    assert torch.equal(torch.randn(3), expected)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16])
def test_maps_of_any_power_of_two_fit(factor: int) -> None:
    widths = ControlNet().choose_widths(factor)
    assert len(widths) == factor.bit_length()
    assert widths == [16, 32, 96, 256, 256][: len(widths)]


@pytest.mark.parametrize(
    ("factor", "widths", "message"),
    [(6, None, "6 times"), (4, [8, 16], "adapter.hint_channels"), (4, [8, 8, 0], "3 widths")],
)
def test_widths_that_do_not_fit_are_refused(factor: int, widths: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ControlNet(widths).choose_widths(factor)


def test_another_network_or_a_second_one_is_refused() -> None:
    with pytest.raises(ValueError, match="that of Linear is not known"):
        attach(nn.Linear(2, 2))
    network = make_network()
    attach(network)
    with pytest.raises(ValueError, match="has a ControlNet already"):
        attach(network)


@pytest.mark.parametrize("shape", ["published", "diffusers"])
def test_it_is_made_on_the_meta_device(shape: str) -> None:
    network = make_network(shape).to("meta")
    assert all(parameter.is_meta for parameter in attach(network).parameters())


def test_a_map_of_other_channels_or_none_is_refused() -> None:
    network = make_network()
    ControlNet().attach(network, channels=1, factor=4, seed=0)
    with pytest.raises(ValueError, match=r"1 channels.* has 3"):
        output(network)
    with pytest.raises(ValueError, match="pass control and controlled"):
        network(torch.zeros(1, 4, 8, 8), torch.zeros(1), Conditioning(tokens=torch.zeros(1, 2, 16)))
