"""Estimates of cost against what can be counted by hand."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from ldm_train.training.cost import RowShapes, StepBytes, Tried, free_memory, saved_bytes, state_bytes, step_bytes

ADAM = partial(torch.optim.AdamW, lr=1e-3, fused=True)


def network(device: str = "cpu") -> nn.Sequential:
    with torch.device(device):
        return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


@pytest.mark.parametrize("examples", [1, 7])
def test_the_activations_of_two_layers_are_their_inputs(examples: int) -> None:
    """Each linear layer keeps its input; the rectifier keeps its output, which is the second one's input."""
    net, x = network(), torch.randn(examples, 3)
    loss, kept = saved_bytes(lambda: net(x).sum(), net.parameters())
    assert kept == 4 * examples * (3 + 5)
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_what_is_kept_twice_counts_once() -> None:
    x = torch.randn(10, requires_grad=True)
    _, kept = saved_bytes(lambda: (x.exp() * 2).exp().sum(), [x])
    assert kept == 2 * 10 * 4
    _, kept = saved_bytes(lambda: (y := x + 1).mul(y).sum() + y.mul(y).sum(), [x])
    assert kept == 10 * 4


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_memory_of_a_step_by_hand(device: str) -> None:
    parameters, tensors = 3 * 5 + 5 + 5 * 2 + 2, 4
    own = 4 * parameters
    found = step_bytes(network(device), ADAM)
    assert found == StepBytes(weights=own, gradients=own, optimizer=2 * own + 4 * tensors, ema=own)
    assert found.total == 5 * own + 16
    assert found.of_numbers(2).weights == own // 2


def test_what_is_frozen_has_weights_alone() -> None:
    net = network()
    net[0].requires_grad_(False)
    net.register_buffer("table", torch.zeros(100))
    found = step_bytes(net, ADAM)
    assert found.weights == 4 * (20 + 12 + 100)
    assert found.gradients == found.ema == 4 * 12


@pytest.mark.parametrize(
    ("optimizer", "moments"),
    [
        (partial(torch.optim.SGD, lr=0.1), 0),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), 1),
        (partial(torch.optim.Adam, lr=0.1), 2),
        (partial(torch.optim.Adam, lr=0.1, amsgrad=True), 3),
    ],
)
def test_an_optimizer_keeps_so_many_moments(optimizer: partial[torch.optim.Optimizer], moments: int) -> None:
    assert state_bytes((30, 40), torch.float32, optimizer) // 4800 == moments


def test_rows_on_disk_by_hand() -> None:
    rows = RowShapes(channels=4, factor=8, posterior=True, moment_bytes=2, tokens=77, embedding=77 * 768)
    assert rows.picture((512, 768), 2) == 2 * (4 * 64 * 96) * 2 * 2
    assert rows.caption == 77 * 4 + 77 * 768 * 2
    assert RowShapes(3, 1, False, 4, 16, 0).picture((16, 16), 1) == 3 * 16 * 16 * 4
    assert RowShapes(3, 1, False, 4, 16, 0).caption == 64


def test_a_step_is_reckoned_from_its_passes_and_its_update() -> None:
    tried = Tried(examples=4, activations=100, seconds=1.0, each=0.2, update=0.5)
    assert tried.step(4, 1) == 1.5
    assert tried.step(9, 3) == pytest.approx(3 * (1 + 5 * 0.2) + 0.5)


def test_memory_that_keeps_files_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a cache was written and read, most of a machine's memory is such."""
    text = "MemTotal:       24000000 kB\nMemFree:          100000 kB\nMemAvailable:   17000000 kB\nCached: 18000000 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: text)
    assert free_memory(torch.device("cpu")) == 17_000_000 * 1024


def test_where_nothing_says_so_all_memory_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: "")
    assert free_memory(torch.device("cpu")) > 2**28
