"""The U-Net: shapes, where it starts, what reaches it, and the names under which its weights are stored."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ldm_train.networks.unet import UNet
from ldm_train.types import Conditioning

PARAMETER_NAMES = Path(__file__).parent / "unet_parameters.txt"
TINY = {
    "in_channels": 4,
    "context_width": 12,
    "vector_width": 10,
    "channels": [32, 64],
    "blocks": 1,
    "attention": [False, True],
    "head_size": 16,
}
CONFIGS = {
    "tiny": {},
    "folded": {"patch_size": 2, "attention": [True, True]},
    "three levels": {"channels": [16, 32, 64], "blocks": 2, "attention": [False, True, True]},
    "no attention": {"attention": [False, False]},
    "self-attention alone": {"context_width": None},
    "no vector": {"vector_width": None},
    "maps": {"map_channels": 3},
    "folded maps": {"map_channels": 3, "patch_size": 2},
    "one level": {"channels": [32], "attention": [True]},
}
EACH_CONFIG = pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())


def unet(*, randomised=False, **changes):
    """A tiny U-Net of fixed weights; `randomised` also those that start at zero, so that it says something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(**(TINY | changes))
        if randomised:
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
    return network


def inputs(*, batch=3, side=8, map_channels=0, mask=None, **_):
    generator = torch.Generator().manual_seed(1)
    x_t, maps = torch.randn(batch, 7, side, side, generator=generator).split([4, 3], dim=1)
    tokens, vector = torch.randn(batch, 5, 12, generator=generator), torch.randn(batch, 10, generator=generator)
    conditioning = Conditioning(tokens=tokens, mask=mask, vector=vector, maps=maps if map_channels else None)
    return x_t, torch.tensor([0, 500, 999])[:batch], conditioning


def row(conditioning, i):
    return Conditioning(**{name: None if part is None else part[i : i + 1] for name, part in vars(conditioning).items()})


@EACH_CONFIG
@pytest.mark.parametrize("side", [8, 16])
def test_the_output_is_like_the_latents(changes, side):
    x_t, t, conditioning = inputs(side=side, **changes)
    assert unet(**changes)(x_t, t, conditioning).shape == x_t.shape


def test_height_and_width_may_differ():
    x_t, t, conditioning = inputs()
    assert unet()(x_t[:, :, :4], t, conditioning).shape == (3, 4, 4, 8)


@EACH_CONFIG
def test_it_starts_by_saying_zero(changes):
    output = unet(**changes)(*inputs(**changes))
    assert_close(output, torch.zeros_like(output), rtol=0, atol=0)


@EACH_CONFIG
def test_no_parameter_is_unused(changes):
    """Which DistributedDataParallel would refuse."""
    network = unet(**changes)
    network(*inputs(**changes)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@EACH_CONFIG
def test_after_a_few_steps_every_parameter_is_told_something(changes):
    """What starts at zero blocks the gradient of what feeds it, for two steps and no longer."""
    network = unet(**changes)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    x_t, t, conditioning = inputs(**changes)
    for _ in range(3):
        optimizer.zero_grad()
        (network(x_t, t, conditioning) - x_t.tanh()).square().mean().backward()
        optimizer.step()
    assert [name for name, p in network.named_parameters() if not p.grad.any()] == []


@EACH_CONFIG
@pytest.mark.parametrize("i", [0, 2])
def test_a_row_of_a_batch_equals_itself_alone(changes, i):
    network = unet(randomised=True, **changes)
    x_t, t, conditioning = inputs(**changes)
    together = network(x_t, t, conditioning)
    assert_close(network(x_t[i : i + 1], t[i : i + 1], row(conditioning, i)), together[i : i + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", ["tokens", "vector", "maps"])
def test_each_part_of_the_conditioning_counts(part):
    network = unet(randomised=True, map_channels=3)
    x_t, t, conditioning = inputs(map_channels=3)
    before = network(x_t, t, conditioning)
    setattr(conditioning, part, getattr(conditioning, part) + 1)
    assert not torch.isclose(network(x_t, t, conditioning), before).all()


def test_the_timestep_counts():
    network = unet(randomised=True)
    x_t, t, conditioning = inputs()
    assert not torch.isclose(network(x_t, t, conditioning), network(x_t, t + 7, conditioning)).flatten(1).all(1).any()


def test_a_mask_hides_the_padded_tokens():
    network = unet(randomised=True)
    mask = torch.tensor([True, True, True, False, False]).expand(3, 5)
    x_t, t, conditioning = inputs(mask=mask)
    hidden = network(x_t, t, conditioning)
    short = Conditioning(tokens=conditioning.tokens[:, :3], vector=conditioning.vector)
    assert_close(hidden, network(x_t, t, short), rtol=1e-4, atol=1e-5)
    open_to_all = Conditioning(tokens=conditioning.tokens, vector=conditioning.vector)
    assert not torch.isclose(hidden, network(x_t, t, open_to_all)).all()


def test_dropout_acts_in_training_alone():
    network = unet(randomised=True, dropout=0.5)
    arguments = inputs()
    assert not torch.equal(network.train()(*arguments), network(*arguments))
    assert torch.equal(network.eval()(*arguments), network(*arguments))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_size": 48}, "network.head_size=48 does not divide the width 64"),
        ({"attention": [True]}, "network.attention has 1 flags for 2 levels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        unet(**changes)


def test_head_size_is_free_where_nothing_attends():
    unet(head_size=48, attention=[False, False])


@pytest.mark.parametrize(("changes", "side", "divisor"), [({}, 7, 2), ({"patch_size": 2}, 6, 4)])
def test_a_side_that_the_levels_cannot_halve_is_refused(changes, side, divisor):
    with pytest.raises(ValueError, match=f"latents of {side}x{side} .* multiples of {divisor}"):
        unet(**changes)(*inputs(side=side))


@pytest.mark.parametrize(("part", "setting"), [("tokens", "context_width"), ("vector", "vector_width")])
def test_missing_conditioning_is_refused_with_the_setting_that_goes_without(part, setting):
    x_t, t, conditioning = inputs()
    setattr(conditioning, part, None)
    with pytest.raises(ValueError, match=f"set network.{setting}=null"):
        unet()(x_t, t, conditioning)


def test_parameter_names_are_frozen():
    """They are a file format: a renamed attribute would leave trained weights unreadable."""
    names = sorted(unet(attention=[True, True]).state_dict())
    assert names == PARAMETER_NAMES.read_text().splitlines()
