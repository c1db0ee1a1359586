"""A run that is continued with its weights in another order in memory goes on as it would have."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ldm_train.training.optimization.strides import match_optimizer_strides, match_strides

FORMATS = [torch.channels_last, torch.contiguous_format]
QUIET = ["pictures.prompts=[]", "pictures.every=1000", "validation.every=1000", "checkpoint.every=4"]


def convolutions(*, channels_last: bool) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, (1, 3)), nn.Flatten(), nn.Linear(4 * 6 * 4, 2))
    return network.to(memory_format=torch.channels_last) if channels_last else network


def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network(images).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_an_optimizers_moments_follow_the_strides_of_the_weights(before: bool, fused: bool) -> None:
    ends = []
    for after in (before, not before):
        network = convolutions(channels_last=before)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, fused=fused)
        for seed in range(3):
            step(network, optimizer, seed)
        other = convolutions(channels_last=after)
        other.load_state_dict(network.state_dict())
        continued = torch.optim.AdamW(other.parameters(), lr=1e-2, fused=fused)
        continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        match_optimizer_strides(continued)
        for parameter, state in continued.state.items():
            assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
        for seed in range(3, 6):
            step(other, continued, seed)
        ends.append(other.state_dict())
    assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-6)


def test_what_lies_as_the_weights_do_is_left_as_it_is() -> None:
    value, parameter = torch.rand(4, 3, 2, 2), torch.rand(4, 3, 2, 2)
    assert match_strides(value, parameter) is value
    moved = match_strides(value, parameter.to(memory_format=torch.channels_last))
    assert moved.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved, value)


def with_bytes(network: nn.Module, like: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that has moments of eight bits for each parameter, in the order of another network's."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for parameter, other in zip(network.parameters(), like.parameters(), strict=True):
        optimizer.state[parameter]["state1"] = torch.randint_like(other, 256).to(torch.uint8)
    return optimizer


@pytest.mark.parametrize("before", [True, False])
def test_moments_of_eight_bits_are_refused_in_another_order(before: bool) -> None:
    old, new = (convolutions(channels_last=value) for value in (before, not before))
    match_optimizer_strides(with_bytes(old, old))
    optimizer = with_bytes(new, old)
    kept = {parameter: dict(state) for parameter, state in optimizer.state.items()}
    with pytest.raises(ValueError, match=f"SGD.*channels_last={str(before).lower()}"):
        match_optimizer_strides(optimizer)
    assert optimizer.state == kept


@pytest.mark.parametrize("before", [True, False])
def test_moments_of_eight_bits_are_kept_where_the_order_is_the_same(before: bool) -> None:
    """Of a convolution of 1x1, whatever strides say of its sides."""
    old, new = (nn.Conv2d(64, 64, 1, bias=False).to(memory_format=kind) for kind in FORMATS[:: 1 if before else -1])
    optimizer = with_bytes(new, old)
    (moments,) = (state["state1"] for state in optimizer.state.values())
    match_optimizer_strides(optimizer)
    (moved,) = (state["state1"] for state in optimizer.state.values())
    assert torch.equal(moved, moments)
    assert moved.stride() == new.weight.stride()


@pytest.mark.parametrize("before", ["false", "true"])
def test_a_run_goes_on_alike_with_channels_last_switched(
    before: str, cache: Path, train: Callable, run_with: Callable, tmp_path: Path
) -> None:
    """Weights, moments and averages in float64, where convolutions in another order hardly round otherwise."""
    own = [*QUIET, "optimizer.lr=1e-2", "trainer.precision=64-true", "ema=power", "ema.snapshot_every=7"]
    start = run_with(*own, "max_steps=4", f"channels_last={before}")
    ends = {}
    for after in ("false", "true"):
        run_dir = Path(shutil.copytree(start, tmp_path / after))
        answer = train(cache, run_dir, *own, "max_steps=14", f"channels_last={after}")
        assert answer.code == 0, answer.err
        ends[after] = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    one, other = (
        [end["state_dict"], end["callbacks"]["EMA"]["average"], end["callbacks"]["EMA"]["others"]] for end in ends.values()
    )
    assert_close(one, other, rtol=1e-7, atol=1e-9)
    one, other = (end["optimizer_states"][0]["state"] for end in ends.values())
    assert_close(one, other, rtol=1e-7, atol=1e-9)
