"""Optimizers by config, in whole runs of a tiny network, with their parameter groups."""

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from ldm_train.assembly.optimization_checks import refuse_unfit_optimizer
from ldm_train.settings.composition import build
from ldm_train.settings.shipped import shipped_part


def lines(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def checkpoint(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)


def rates(run_dir: Path) -> list[float]:
    return [group["initial_lr"] for group in checkpoint(run_dir)["optimizer_states"][0]["param_groups"]]


def test_a_runs_text_encoder_has_its_rate_and_the_log_has_the_networks(run_with: Callable, trained: Path) -> None:
    """A rate of next to nothing leaves the text encoder where it started, and the network learns."""
    run_dir = run_with("parameter_groups.text_encoder_lr=1e-12")
    assert rates(run_dir) == [1e-3, 1e-3, 1e-12, 1e-12]
    assert rates(trained) == [1e-3, 1e-3]
    assert [line["lr"] for line in lines(run_dir)] == [line["lr"] for line in lines(trained)]
    learned, still = checkpoint(trained)["state_dict"], checkpoint(run_dir)["state_dict"]
    names = [name for name in learned if name.startswith("text_encoder.") and name.endswith("weight")]
    start = checkpoint(run_with("max_steps=1", "parameter_groups.text_encoder_lr=1e-12"))["state_dict"]
    assert names
    for name in names:
        torch.testing.assert_close(still[name], start[name], rtol=0, atol=1e-9)
        assert (learned[name] - start[name]).abs().max() > 1e-4
    assert not torch.equal(still["network.conv_in.weight"], start["network.conv_in.weight"])


def test_another_choice_of_groups_cannot_continue_a_run(cache: Path, train: Callable, tmp_path: Path) -> None:
    """The optimizer's state is kept by the groups' order."""
    assert train(cache, tmp_path / "run", "max_steps=2").code == 0
    answer = train(cache, tmp_path / "run", "parameter_groups.decay_norms_and_biases=true")
    assert answer.code == 1
    assert "parameter_groups.decay_norms_and_biases: then false, now true" in answer.err
    assert train(cache, tmp_path / "run", "max_steps=3").code == 0


PLAIN_SGD = ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "~optimizer.eps", "optimizer.fused=false"]
OPTIMIZERS = [
    ["optimizer=sgd", "optimizer.lr=0.05"],
    ["optimizer=adam"],
    ["optimizer._target_=torch.optim.Adam", "optimizer.fused=false"],
    [*PLAIN_SGD, "+optimizer.momentum=0.9", "optimizer.lr=0.05"],
    ["optimizer._target_=torch.optim.NAdam", "~optimizer.fused", "trainer.precision=bf16-mixed"],
    ["optimizer.fused=true", "parameter_groups.text_encoder_lr=1e-4", "trainer.precision=bf16-mixed"],
]
needs_8bit = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
EIGHT_BIT = ["optimizer=adamw_8bit", "optimizer.min_8bit_size=16"]
QUIET = ["pictures.every=100", "pictures.prompts=[]", "validation.every=100"]


@pytest.mark.parametrize(
    "words", [*OPTIMIZERS, pytest.param(EIGHT_BIT, marks=needs_8bit)], ids=lambda words: " ".join(words[:2])
)
def test_every_optimizer_trains_and_continues_bit_for_bit(
    words: list[str], cache: Path, train: Callable, tmp_path: Path, power_cut: Callable
) -> None:
    """The same nine pictures at every step: after 20 their loss is less."""
    words = ["optimizer.lr=5e-3", *words, *QUIET, "max_steps=20", "batch_size=9", "caption_dropout=0", "checkpoint.every=12"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    answer = train(cache, whole, *words)
    assert answer.code == 0, answer.err
    losses = [line["loss"] for line in lines(whole)]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])
    with power_cut(12):
        train(cache, cut, *words)
    assert train(cache, cut, *words).code == 0
    states = [checkpoint(run_dir)["state_dict"] for run_dir in (whole, cut)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_an_optimizer_is_given_python_lists() -> None:
    """It keeps them, and a checkpoint loads nothing of a config's."""
    assert type(build(shipped_part("optimizer", "adamw"), "optimizer").keywords["betas"]) is list


@needs_8bit
def test_the_8_bit_optimizer_keeps_a_byte_a_moment(cache: Path, train: Callable, tmp_path: Path) -> None:
    assert train(cache, tmp_path / "run", *EIGHT_BIT, *QUIET, "max_steps=1").code == 0
    state = checkpoint(tmp_path / "run")["optimizer_states"][0]["state"]
    moments = [value for entry in state.values() for name, value in flat(entry) if name in ("state1", "state2")]
    assert {value.dtype for value in moments if value.numel() >= 16} == {torch.uint8}


def flat(entry: dict) -> list[tuple[str, object]]:
    """What a parameter has, at any depth."""
    return [pair for key, value in entry.items() for pair in (flat(value) if isinstance(value, dict) else [(key, value)])]


BARE = ["~optimizer.betas", "~optimizer.eps", "~optimizer.fused", "~optimizer.weight_decay", "~optimizer.lr"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer._target_=torch.optim.SGD"], "leave out what another constructor takes: ~optimizer.betas ~"),
        (["optimizer._target_=torch.optim.swa_utils.AveragedModel"], "optim.swa_utils.AveragedModel is not a constructor"),
        ([*BARE, "optimizer._target_=torch.optim.Optimizers"], "torch.optim.Optimizers is not there"),
        (["+optimizer.foreach=true"], "`fused` and `foreach` cannot be `True` together.; a setting that it does not take"),
        (["optimizer._target_=torch.optim.Adan"], "torch.optim.Adan is not there"),
        (["optimizer.betas=[2,0.9]"], "Invalid beta parameter at index 0: 2"),
        (["optimizer.lr=-1"], "optimizer.lr=-1 must be at least 0"),
        (["optimizer._target_=torch.optim.Muon", "~optimizer.betas", "~optimizer.fused"], "torch.optim.Muon cannot train"),
        (["lr_schedule.cooldown_steps=7"], "9 steps together, more than max_steps=8"),
        (["parameter_groups.text_encoder_lr=-1"], "parameter_groups.text_encoder_lr=-1 must be above 0"),
        (["parameter_groups.text_encoder_lr=0"], "parameter_groups.text_encoder_lr=0 must be above 0"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "check"])
def test_what_cannot_be_is_reported_by_train_and_by_check(
    verb: str,
    words: list[str],
    message: str,
    cache: Path,
    pictures: Path,
    ldm_train: Callable,
    train_words: list[str],
    tmp_path: Path,
) -> None:
    data = [f"cache={cache}", f"run_dir={tmp_path}/run"] if verb == "train" else [f"source.path={pictures}", "measure=false"]
    encoders = [] if verb == "train" else ["autoencoder=identity", "image_size=16"]
    answer = ldm_train(verb, *data, *encoders, *train_words, *words)
    assert answer.code == (
        2 if any(words in message for words in ("leave out", "unknown setting", "not a constructor")) else 1
    )
    assert message in " ".join((answer.err + answer.out).split())
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_frozen_text_encoder_with_a_rate_is_reported_by_the_command(
    pictures: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    assert encode(pictures, tmp_path / "cache", "text_encoder.trained=false").code == 0
    answer = train(tmp_path / "cache", tmp_path / "run", "parameter_groups.text_encoder_lr=1e-5")
    assert answer.code == 1
    assert "text_encoder_lr=1e-05" in answer.err
    assert "frozen" in answer.err
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_an_optimizer_that_is_not_installed_says_how_to_get_it(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    answer = train(cache, tmp_path / "run", "optimizer=adamw_8bit")
    assert answer.code == 1
    assert "bitsandbytes, which is not installed: pip install 'ldm-train[eight_bit]'" in answer.err
    assert not (tmp_path / "run").exists()


REFUSED = {
    "torch.optim.Muon": "2D",
    "torch.optim.SparseAdam": "dense gradients",
    "torch.optim.LBFGS": "parameter groups",
}


@pytest.mark.parametrize("target", REFUSED)
def test_an_optimizer_that_cannot_take_the_parameters_is_refused_before_training(target: str) -> None:
    """Muon would fail at the first convolution, SparseAdam at the first step."""
    make = partial(getattr(torch.optim, target.rpartition(".")[2]), lr=0.01)
    with pytest.raises(ValueError, match=f"optimizer._target_={target} cannot train") as caught:
        refuse_unfit_optimizer(target, make)
    assert REFUSED[target] in str(caught.value)
    assert "torch.optim.AdamW" in str(caught.value)


@pytest.mark.parametrize(
    "target",
    ["AdamW", "Adam", "SGD", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "ASGD", "RMSprop", "Rprop", "Adafactor"],
)
def test_every_other_one_of_torch_passes(target: str) -> None:
    refuse_unfit_optimizer(f"torch.optim.{target}", partial(getattr(torch.optim, target), lr=0.01))
