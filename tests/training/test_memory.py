"""What takes less memory trains the same: steps within the backward pass, averages on the CPU, and both as one setting."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ldm_train.assembly.stored_weights import read_weights
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.composition import compose
from ldm_train.settings.schema.options import select
from ldm_train.training.optimization.fused_backward import FusedBackward

UNCLIPPED = "trainer.gradient_clip_val=null"


def same(one: Path, other: Path) -> bool:
    states = [[read_weights(run, kind)[0] for kind in ("raw", "ema")] for run in (one, other)]
    return all(torch.equal(a[name], b[name]) for a, b in zip(*states, strict=True) for name in a)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_within_the_backward_pass_is_the_step_after_it(optimizer: str, run_with: Callable[..., Path]) -> None:
    own = (UNCLIPPED, f"optimizer={optimizer}", "network.gradient_checkpointing=true")
    assert same(run_with(*own), run_with(*own, "fused_backward=true"))


def test_the_norm_of_freed_gradients_is_logged(run_with: Callable[..., Path]) -> None:
    own = (UNCLIPPED, "optimizer=adamw", "network.gradient_checkpointing=true")
    lines = [(run_with(*own, *more) / "metrics.jsonl").read_text() for more in ((), ("fused_backward=true",))]
    logged = [[json.loads(line) for line in text.splitlines()] for text in lines]
    norms = [[line["grad_norm"] for line in run if "grad_norm" in line] for run in logged]
    assert len(norms[0]) == 8
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_a_run_with_fused_steps_is_continued_exactly(
    cache: Path, train: Callable, run_with: Callable[..., Path], power_cut: Callable, tmp_path: Path
) -> None:
    words = (UNCLIPPED, "optimizer=adamw", "network.gradient_checkpointing=true", "fused_backward=true")
    with power_cut(4):
        train(cache, tmp_path / "run", *words)
    assert train(cache, tmp_path / "run", *words).code == 0
    assert same(tmp_path / "run", run_with(*words))


@pytest.mark.parametrize("fused", [False, True])
def test_a_parameter_whose_gradient_is_not_finite_stays_and_gradients_are_freed(fused: bool) -> None:
    bad, good = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([{"params": [bad]}, {"params": [good], "lr": 0.1}], fused=fused)
    hooks = FusedBackward(optimizer)
    (bad.sum() * torch.inf + 2 * good.sum()).backward()
    assert torch.equal(bad, torch.ones(3))
    assert torch.allclose(good, torch.tensor(0.9), atol=2e-3)
    assert bad.grad is None
    assert good.grad is None
    assert hooks.norm(torch.device("cpu")).isinf()
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]
    hooks.remove()
    good.sum().backward()
    assert good.grad is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "trainer.gradient_clip_val=1.0 does not go with fused_backward=true"),
        ((UNCLIPPED, "micro_batch_size=2"), "micro_batch_size=2 does not go with"),
        ((UNCLIPPED, "micro_batch_size=auto"), "micro_batch_size=auto does not go with"),
        ((UNCLIPPED, "trainer.devices=2"), "trainer.devices=2 does not go with"),
    ],
)
def test_what_needs_all_gradients_at_once_is_refused(words: tuple[str, ...], message: str, cache, train, tmp_path) -> None:
    answer = train(cache, tmp_path / "run", "fused_backward=true", *words)
    assert answer.code == 1
    assert message in answer.err


@pytest.mark.parametrize("lever", ["ema.offload=true", "fused_backward=true"])
def test_levers_of_one_device_are_not_for_shared_parameters(lever: str, cache, train, tmp_path) -> None:
    answer = train(cache, tmp_path / "run", UNCLIPPED, "trainer.strategy=fsdp2", lever)
    assert answer.code == 1
    name = lever.partition("=")[0]
    assert f"{lever} does not go with trainer.strategy=fsdp2; set {name}=false or trainer.strategy=ddp" in answer.err


def test_averages_on_the_cpu_are_those_of_the_device(run_with: Callable[..., Path], trained: Path) -> None:
    assert same(run_with("ema.offload=true"), trained)


@pytest.mark.parametrize(
    ("memory", "settings"),
    [
        ("low", {"network.gradient_checkpointing": True}),
        ("lower", {"optimizer._target_": "bitsandbytes.optim.AdamW8bit"}),
        ("lowest", {"ema.offload": True, "fused_backward": True, "trainer.gradient_clip_val": None}),
    ],
)
@pytest.mark.parametrize("verb", ["train", "check"])
def test_one_setting_composes_the_levers(verb: str, memory: str, settings: dict[str, object]) -> None:
    needed = ["cache=x", "run_dir=y"] if verb == "train" else ["source.path=x"]
    config = compose(verb, [f"memory={memory}", *needed])
    assert {name: select(config, name) for name in settings} == settings
    overruled = compose(verb, [f"memory={memory}", "network.gradient_checkpointing=false", *needed])
    assert select(overruled, "network.gradient_checkpointing") is False


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_the_lowest_trains(run_with: Callable[..., Path]) -> None:
    run_dir = run_with("memory=lowest")
    assert read_trained(run_dir).fused_backward is True
    state, step, _ = read_weights(run_dir, "raw")
    assert step == 8
    assert all(p.isfinite().all() for p in state.values())
