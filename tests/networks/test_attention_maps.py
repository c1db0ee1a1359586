"""Recorded attention is what the network computes with, and the network computes the same while it is recorded."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ldm_train.networks.attention import Attention
from ldm_train.networks.attention_maps import AttentionRecorder, compute_shares, list_attending
from ldm_train.networks.unet import UNet
from ldm_train.types import Conditioning


def unet(*, only_cross: bool = False) -> UNet:
    """A network of two resolutions with attention at both, with weights that are not zero anywhere."""
    torch.manual_seed(0)
    network = UNet(
        in_channels=3, context_width=6, vector_width=None, channels=[8, 16], blocks=1, attention=[True, True], head_size=4,
        only_cross_attention=[only_cross, False],
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def inputs(count: int) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(1)
    x, tokens = (torch.randn(shape, generator=generator) for shape in ((count, 3, 8, 8), (count, 5, 6)))
    return x, torch.full((count,), 500.0), Conditioning(tokens=tokens)


def each_token(count: int) -> Tensor:
    return torch.eye(5).expand(count, -1, -1)


@pytest.mark.parametrize("masked", [False, True])
def test_shares_are_those_that_attention_weighs_its_values_with(masked: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(8, head_size=8, context_width=6)
    x, context = torch.randn(2, 7, 8), torch.randn(2, 5, 6)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2]) if masked else None
    shares = compute_shares(attention, x, context, mask)
    values = attention.to_kv(context).chunk(2, dim=-1)[1]
    assert_close(attention.to_out(shares @ values), attention(x, context, mask))  # exact for one head
    assert_close(shares.sum(-1), torch.ones(2, 7))
    assert not masked or shares[1, :, 3:].abs().max() == 0


def test_several_heads_are_averaged() -> None:
    torch.manual_seed(0)
    attention = Attention(8, head_size=4, context_width=6)
    x, context = torch.randn(2, 7, 8), torch.randn(2, 5, 6)
    q, k = attention.to_q(x), attention.to_kv(context).chunk(2, dim=-1)[0]
    heads = [(q[..., part] @ k[..., part].mT / 2).softmax(-1) for part in (slice(0, 4), slice(4, 8))]
    assert_close(compute_shares(attention, x, context, None), (heads[0] + heads[1]) / 2)


def test_tokens_after_those_of_the_groups_belong_to_the_last_one() -> None:
    """Those of the caption come first, so that a condition that gives tokens moves no word's attention to another's."""
    network = unet()
    with AttentionRecorder(network, each_token(2)) as whole, torch.no_grad():
        network(*inputs(2))
        whole.close_step()
    with AttentionRecorder(network, each_token(2)[:, :3, :4]) as fewer, torch.no_grad():
        network(*inputs(2))
        fewer.close_step()
    for shape, maps in whole.steps[0].items():
        assert_close(fewer.steps[0][shape], torch.cat([maps[:, :3], maps[:, 3:].sum(1, keepdim=True)], 1))


@pytest.mark.parametrize("only_cross", [False, True])
def test_the_maps_of_all_tokens_sum_to_one_at_each_place(only_cross: bool) -> None:
    network = unet(only_cross=only_cross)
    with AttentionRecorder(network, each_token(2)) as recorder, torch.no_grad():
        for _ in range(3):
            network(*inputs(2))
            recorder.close_step()
    assert [{*step} for step in recorder.steps] == [{(8, 8), (4, 4)}] * 3
    for (height, width), maps in recorder.steps[0].items():
        assert maps.shape == (2, 5, height, width)
        assert_close(maps.sum(1), torch.ones(2, height, width))
        assert maps.std() > 0


def test_the_network_computes_the_same_bit_for_bit() -> None:
    network, given = unet(), inputs(2)
    with torch.no_grad():
        before = network(*given)
        with AttentionRecorder(network, each_token(2)) as recorder:
            assert torch.equal(network(*given), before)
        after = network(*given)
    assert torch.equal(after, before)
    recorder.close_step()
    count = len(recorder.steps)
    with torch.no_grad():
        network(*given)
    assert (len(recorder.steps), dict(recorder._open)) == (count, {})  # nothing is recorded outside of the block


def test_only_the_first_examples_are_recorded_and_calls_of_a_step_averaged() -> None:
    network, (x, t, conditioning) = unet(), inputs(4)
    assert conditioning.tokens is not None
    halves = [(x[part], t[part], Conditioning(tokens=conditioning.tokens[part])) for part in (slice(2), slice(2, 4))]
    maps = []
    for calls in ([(x, t, conditioning)], [halves[0]], [halves[1]], halves):
        with AttentionRecorder(network, each_token(2)) as recorder, torch.no_grad():
            for call in calls:
                network(*call)
        recorder.close_step()
        maps.append(recorder.steps[0][8, 8])
    assert_close(maps[0], maps[1])
    assert_close(maps[3], (maps[1] + maps[2]) / 2)


def test_tokens_of_a_group_are_added() -> None:
    network, groups = unet(), torch.zeros(2, 5, 2)
    groups[0, [0, 3], 0] = groups[0, [1, 2, 4], 1] = groups[1, :, 1] = 1
    maps = []
    for wanted in (each_token(2), groups):
        with AttentionRecorder(network, wanted) as recorder, torch.no_grad():
            network(*inputs(2))
        recorder.close_step()
        maps.append(recorder.steps[0][4, 4])
    assert_close(maps[1][0, 0], maps[0][0, 0] + maps[0][0, 3])
    assert_close(maps[1][1], torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]))


def test_a_network_without_tokens_has_nothing_to_record() -> None:
    network = UNet(in_channels=3, context_width=None, vector_width=4, channels=[8], attention=[True], head_size=4)
    assert list_attending(network) == []
