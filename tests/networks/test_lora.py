"""Adapters start as nothing, train alone, and add what merging them into the weights adds."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ldm_train.conditioners.text_encoder import small
from ldm_train.conditioners.text_tower import SmallTower
from ldm_train.networks.layer_patterns import match_patterns
from ldm_train.networks.lora import LoRA
from ldm_train.networks.multihead_attention import JoinedAttention
from ldm_train.networks.unet import UNet
from ldm_train.types import CaptionBatch, Conditioning
from ldm_train.weights.lora.low_rank import WeightedAdapter, extract_adapter, group_layers, merge_adapters

EVERYTHING = ["down.*.residual.*", "*_attention.to_*", "*.feed_forward.*", "*.proj_in", "conv_in"]


def network() -> UNet:
    """A tiny one whose output is not zero."""
    torch.manual_seed(0)
    made = UNet(in_channels=4, context_width=32, vector_width=32, channels=[8, 16], attention=[False, True], head_size=8)
    for p in made.parameters():
        nn.init.normal_(p, std=0.1)
    return made


def texts() -> nn.Module:
    torch.manual_seed(1)
    return small(width=32, layers=2, heads=4)


def make_conditioning() -> Conditioning:
    generator = torch.Generator().manual_seed(2)
    return Conditioning(tokens=torch.randn(2, 5, 32, generator=generator), vector=torch.randn(2, 32, generator=generator))


def output(net: nn.Module) -> torch.Tensor:
    x_t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return net(x_t, torch.tensor([0.2, 0.7]), make_conditioning())


def shake(module: nn.Module) -> dict[str, torch.Tensor]:
    """Adapters as if they had been trained, and their tensors by name."""
    generator = torch.Generator().manual_seed(4)
    own = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for p in own.values():
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return {name: p.detach().clone() for name, p in own.items()}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_an_adapter_starts_as_nothing_bit_for_bit(dora: bool, training: bool) -> None:
    net, text = network().train(training), texts().train(training)
    tokens = CaptionBatch(text.tokenize(["a fox", "a much longer caption of a fox"]))
    # PyTorch rounds a product with what is trained otherwise.
    before, states = output(net), text.requires_grad_(False)(tokens).tokens
    text.requires_grad_(True)
    LoRA(rank=3, dora=dora, targets=EVERYTHING, text_encoder=True, text_targets=["*"]).attach(net, text, seed=0)
    assert torch.equal(output(net), before)
    assert torch.equal(text(tokens).tokens, states)


def test_only_adapters_want_gradients_and_all_of_them_get_one() -> None:
    net, text = network(), texts()
    LoRA(text_encoder=True).attach(net, text, seed=0)
    shake(net)
    shake(text)
    names = [name for module in (net, text) for name, p in module.named_parameters() if p.requires_grad]
    assert names
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    tokens = CaptionBatch(text.tokenize(["a fox", "two"]))
    conditioning = text(tokens)
    net(torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.7]), conditioning).square().mean().backward()
    for module in (net, text):
        assert all((p.grad is not None and p.grad.any()) == p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("alpha", [None, 1.0])
@pytest.mark.parametrize("dora", [False, True])
def test_merged_equals_unmerged(dora: bool, alpha: float | None) -> None:
    net, plain = network(), network()
    LoRA(rank=3, alpha=alpha, dora=dora, targets=EVERYTHING).attach(net, texts(), seed=0)
    adapter = extract_adapter(shake(net), alpha=3 if alpha is None else alpha)
    assert set(group_layers(adapter)) == set(
        match_patterns(EVERYTHING, {name.rpartition(".lora_A")[0] for name in adapter}, setting="")
    )
    before = output(plain)
    plain.load_state_dict(merge_adapters(plain.state_dict(), [WeightedAdapter(adapter, 1.0, "")]), strict=False)
    assert not torch.allclose(output(plain), before, rtol=1e-2)
    assert_close(output(plain), output(net), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", [["*.attn.*"], ["*.mlp.*"]])
def test_a_merged_text_encoder_equals_an_unmerged_one(targets: list[str]) -> None:
    text, plain = texts(), texts()
    LoRA(rank=3, text_encoder=True, text_targets=targets).attach(network(), text, seed=0)
    adapter = extract_adapter(shake(text), alpha=3)
    plain.load_state_dict(merge_adapters(plain.state_dict(), [WeightedAdapter(adapter, 1.0, "")]), strict=False)
    tokens = CaptionBatch(text.tokenize(["a fox", "a much longer caption of a fox"]))
    assert_close(plain(tokens).tokens, text(tokens).tokens, rtol=1e-5, atol=1e-5)


def test_two_adapters_add_their_changes_and_none_at_factor_zero() -> None:
    net = network()
    adapters = []
    for seed, dora in ((0, False), (1, True)):
        adapted = network()
        LoRA(rank=2, dora=dora).attach(adapted, texts(), seed=seed)
        adapters.append(extract_adapter(shake(adapted), alpha=2))
    weights = net.state_dict()
    both = merge_adapters(weights, [WeightedAdapter(adapters[0], 0.8, ""), WeightedAdapter(adapters[1], -0.5, "")])
    ones = [merge_adapters(weights, [WeightedAdapter(adapter, 1.0, "")]) for adapter in adapters]
    for name, value in both.items():
        w = weights[name]
        assert_close(value - w, 0.8 * (ones[0][name] - w) - 0.5 * (ones[1][name] - w), rtol=1e-4, atol=1e-6)
    nothing = merge_adapters(weights, [WeightedAdapter(adapter, 0.0, "") for adapter in adapters])
    assert all(torch.equal(nothing[name], weights[name]) for name in nothing)


def test_the_seed_alone_says_how_an_adapter_starts() -> None:
    def start(seed: int, *, before: int) -> dict[str, torch.Tensor]:
        net = network()
        torch.manual_seed(before)
        LoRA(init="gaussian").attach(net, texts(), seed=seed)
        return {name: p for name, p in net.named_parameters() if p.requires_grad}

    one, same, other = start(0, before=5), start(0, before=6), start(1, before=5)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_attaching_leaves_the_global_generator_alone() -> None:
    net, text = network(), texts()
    before = torch.get_rng_state()
    LoRA(text_encoder=True).attach(net, text, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_joined_attention_is_pytorchs_bit_for_bit(grad: bool, training: bool) -> None:
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(32, 4, batch_first=True).train(training)
    actual = JoinedAttention(copy.deepcopy(reference))
    x, mask = torch.randn(3, 7, 32), torch.full((7, 7), float("-inf")).triu(1)
    with torch.set_grad_enabled(grad):
        expected = reference(x, x, x, need_weights=False, attn_mask=mask)[0]
        assert torch.equal(actual(x, x, x, need_weights=False, attn_mask=mask)[0], expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"alpha": 0.0}, "alpha=0"),
        ({"dropout": 1.0}, "dropout=1"),
        ({"init": "zero"}, "init=zero"),
    ],
)
def test_settings_that_no_adapter_can_have_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        LoRA(**settings)


def test_a_pattern_without_a_layer_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"adapter.targets: '\*.to_k' .*'to_k'.*to_kv"):
        LoRA(targets=["*.to_k"]).attach(network(), texts(), seed=0)


def test_a_frozen_text_encoder_takes_no_adapter() -> None:
    with pytest.raises(ValueError, match=r"text_encoder\.trained=true"):
        LoRA(text_encoder=True).attach(network(), small(width=32, trained=False), seed=0)


def test_what_computes_more_than_a_product_takes_no_adapter() -> None:
    net = network()
    halvings = [name for name, layer in net.named_modules() if type(layer).__name__ in ("Upsample", "Downsample")]
    with pytest.raises(ValueError, match="matches none"):
        LoRA(targets=halvings).attach(net, texts(), seed=0)


def test_the_last_block_of_a_penultimate_tower_is_left_out() -> None:
    text = texts()
    assert isinstance(text.tower, SmallTower)
    text.tower.transformer.resblocks[-1].requires_grad_(False)
    LoRA(text_encoder=True).attach(network(), text, seed=0)
    assert {name.split(".")[3] for name, p in text.named_parameters() if p.requires_grad} == {"0"}
