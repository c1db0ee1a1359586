"""The U-Net: shapes, where it starts, what reaches it, and the names under which its weights are stored."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from ldm_train.networks.attention import Attention
from ldm_train.networks.diffusers_unet import DiffusersUNet
from ldm_train.networks.unet import UNet
from ldm_train.settings.strict import READ_BY_RUN
from ldm_train.types import Conditioning

PARAMETER_NAMES = Path(__file__).parent / "unet_parameters.txt"
CONF = Path(__file__).parents[2] / "conf/network"
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
    "heads": {"heads": 2, "attention": [True, True]},
    "a middle with attention": {"attention": [False, False], "middle_attention": True},
    "a middle without": {"middle_attention": False},
    "added embedding": {"scale_shift": False},
    "gradient checkpointing": {"gradient_checkpointing": True},
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


def diffusers_unet(**changes):
    """diffusers' U-Net by the shipped config, made for the same inputs."""
    settings = OmegaConf.to_container(OmegaConf.load(CONF / "diffusers_unet.yaml"))
    settings = {
        name: value for name, value in settings.items() if name not in {"_target_", "_convert_", *READ_BY_RUN["network"]}
    }
    arguments = {"in_channels": 4, "context_width": 12, "vector_width": 10} | settings | {"block_out_channels": [32, 64]}
    return DiffusersUNet(**arguments | changes)


def inputs(*, batch=3, side=8, context_width=12, vector_width=10, map_channels=0, mask=None, **_):
    generator = torch.Generator().manual_seed(1)
    x_t, maps = torch.randn(batch, 7, side, side, generator=generator).split([4, 3], dim=1)
    tokens, vector = torch.randn(batch, 5, 12, generator=generator), torch.randn(batch, 10, generator=generator)
    conditioning = Conditioning(
        tokens=tokens if context_width else None,
        mask=mask,
        vector=vector if vector_width else None,
        maps=maps if map_channels else None,
    )
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
def test_after_a_few_steps_every_parameter_is_reported_something(changes):
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


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.5}, {"context_width": None}], ids=["plain", "dropout", "no tokens"])
def test_gradient_checkpointing_leaves_output_and_gradients_alone(changes):
    found = []
    for checkpointing in (False, True):
        network = unet(randomised=True, gradient_checkpointing=checkpointing, **changes)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            output = network(*inputs(**changes))
            output.square().sum().backward()
        found.append({"output": output} | {name: p.grad for name, p in network.named_parameters()})
    assert_close(found[1], found[0], rtol=0, atol=0)


def kept_numbers(network):
    """how many numbers a forward pass keeps for the backward pass, without the parameters."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        network(*inputs())
    parameters = {p.data_ptr() for p in network.parameters()}
    return sum({t.data_ptr(): t.numel() for t in kept if t.data_ptr() not in parameters}.values())


def test_gradient_checkpointing_keeps_less_in_training_alone():
    plain, checkpointed = unet(), unet(gradient_checkpointing=True)
    assert kept_numbers(checkpointed) < kept_numbers(plain) / 3
    assert kept_numbers(checkpointed.eval()) == kept_numbers(plain.eval())


def test_heads_are_a_number_at_every_level_and_overrule_their_size():
    sizes = {
        module.to_q.in_features: module.head_size
        for module in unet(heads=4, head_size=7, attention=[True, True]).modules()
        if isinstance(module, Attention)
    }
    assert sizes == {32: 8, 64: 16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_size": 48}, "network.head_size=48 does not divide the width 64"),
        ({"heads": 5}, "network.heads=5 does not divide the width 64"),
        ({"heads": 0}, "network.heads=0 must be at least 1"),
        ({"head_size": -1}, "network.head_size=-1 must be at least 1"),
        ({"head_size": 48, "attention": [False, False], "middle_attention": True}, "network.head_size=48 does not divide"),
        ({"attention": [True]}, "network.attention has 1 flags for 2 levels"),
        ({"channels": [33, 64]}, r"network.channels=\[33, 64\] .* even"),
        ({"channels": [32, 1]}, r"network.channels=\[32, 1\] must be widths of at least 2"),
        ({"channels": [], "attention": []}, r"network.channels=\[\] must be widths"),
        ({"blocks": 0}, "network.blocks=0 must be at least 1"),
        ({"patch_size": 0}, "network.patch_size=0 must be at least 1"),
        ({"expansion": 0}, "network.expansion=0 must be at least 1"),
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


NETWORKS = pytest.mark.parametrize("make", [unet, diffusers_unet])


@NETWORKS
@pytest.mark.parametrize(
    ("part", "setting"), [("tokens", "context_width=null"), ("vector", "vector_width=null"), ("maps", "map_channels=0")]
)
def test_missing_conditioning_is_refused_with_the_setting_that_goes_without(make, part, setting):
    x_t, t, conditioning = inputs(map_channels=3)
    setattr(conditioning, part, None)
    with pytest.raises(ValueError, match=f"the conditioning has no {part}; set network.{setting}"):
        make(map_channels=3)(x_t, t, conditioning)


@NETWORKS
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vector_width": None}, "network.vector_width=null, .* has vector of width 10; set network.vector_width=10"),
        ({"map_channels": 0}, "network.map_channels=0, .* has maps of width 3; set network.map_channels=3"),
        ({"context_width": 13}, "network.context_width=13, .* has tokens of width 12; set network.context_width=12"),
    ],
)
def test_conditioning_that_would_be_ignored_or_does_not_fit_is_refused(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**{"map_channels": 3} | changes)(*inputs(map_channels=3))


def test_tokens_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match=r"network.context_width=null, .* has tokens of width 12"):
        unet(context_width=None)(*inputs())


def test_a_mask_without_tokens_is_refused():
    with pytest.raises(ValueError, match="a mask but no tokens"):
        unet(context_width=None)(*inputs(context_width=None, mask=torch.ones(3, 5, dtype=torch.bool)))


def test_a_text_encoders_tokens_may_go_unused_where_nothing_attends():
    """The assembly gives every network the text encoder's width, and `attention` is the setting that says so."""
    unet(attention=[False, False], context_width=12)(*inputs())


def test_the_unet_of_diffusers_has_the_same_call():
    network = diffusers_unet(map_channels=3)
    x_t, t, conditioning = inputs(map_channels=3)
    before = network(x_t, t, conditioning)
    assert before.shape == x_t.shape
    for part in ("tokens", "vector", "maps"):
        changed = Conditioning(**vars(conditioning) | {part: getattr(conditioning, part) + 1})
        assert not torch.isclose(network(x_t, t, changed), before).all()


def test_the_unet_of_diffusers_needs_tokens():
    with pytest.raises(ValueError, match=r"network\.context_width=null"):
        diffusers_unet(context_width=None)


def test_the_unet_of_diffusers_hides_masked_tokens():
    network = diffusers_unet()
    x_t, t, conditioning = inputs(mask=torch.tensor([True, True, True, False, False]).expand(3, 5))
    short = Conditioning(tokens=conditioning.tokens[:, :3], vector=conditioning.vector)
    assert_close(network(x_t, t, conditioning), network(x_t, t, short), rtol=1e-4, atol=1e-5)


@EACH_CONFIG
@pytest.mark.slow
def test_it_compiles_as_one_graph(changes):
    torch.compiler.reset()  # it counts how often a function is compiled
    network = unet(randomised=True, **changes)
    arguments = inputs(**changes)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    assert_close(compiled(*arguments), network(*arguments), rtol=1e-4, atol=1e-5)


def test_parameter_names_are_frozen():
    """They are a file format: a renamed attribute would leave trained weights unreadable."""
    names = sorted(unet(attention=[True, True]).state_dict())
    assert names == PARAMETER_NAMES.read_text().splitlines()


def test_maps_are_added_to_the_output():
    network, plain = (unet(randomised=True, in_channels=3, map_channels=3, add_maps=added) for added in (True, False))
    x_t, t, conditioning = inputs(map_channels=3)
    given = x_t[:, :3], t, conditioning
    assert_close(network(*given), plain(*given) + conditioning.maps)
    assert_close(UNet(**(TINY | {"in_channels": 3, "map_channels": 3, "add_maps": True}))(*given), conditioning.maps)


def test_maps_that_cannot_be_added_are_refused():
    with pytest.raises(ValueError, match=r"network.add_maps=true .* 4 channels .* 3"):
        unet(map_channels=3, add_maps=True)
