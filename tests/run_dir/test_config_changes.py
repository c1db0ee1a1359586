"""What a continued run may have otherwise, and what it may not."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm_train.run_dir.config_changes import refuse_other_run
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from tests.run_dir.records import QUIET, files, lines, record

# What may not continue


@pytest.mark.parametrize(
    ("word", "reported"),
    [
        ("seed=1", "seed: then 0, now 1"),
        ("batch_size=8", "batch_size: then 4, now 8"),
        ("caption_dropout=0.5", "caption_dropout: then 0.1, now 0.5"),
        ("held_out=0.2", "held_out: then null, now 0.2"),
        ("offset_noise=0.1", "offset_noise: then 0.0, now 0.1"),
        ("cache_repeats=[2]", "cache_repeats: then null, now [2.0]"),
        ("optimizer.lr=2e-3", "optimizer.lr: then 0.001, now 0.002"),
        ("optimizer=sgd", 'optimizer._target_: then "torch.optim.AdamW", now "torch.optim.SGD"'),
        ("parameter_groups.text_encoder_lr=1e-4", "parameter_groups.text_encoder_lr: then null, now 0.0001"),
        ("lr_schedule.warmup_steps=3", "lr_schedule.warmup_steps: then 2, now 3"),
        ("lr_schedule.cooldown_steps=2", "lr_schedule.cooldown_steps: then 0, now 2"),
        ("ema.decay=0.9", "ema.decay: then 0.999, now 0.9"),
        ("ema.start_step=3", "ema.start_step: then 0, now 3"),
        ("network.channels=[16,64]", "network.channels: then [16, 32], now [16, 64]"),
        ("network.dropout=0.1", "network.dropout: then 0.0, now 0.1"),
        ("schedule=cosine", 'schedule._target_: then "ldm_train.diffusion'),
        ("prediction=velocity", "prediction._target_: then"),
        ("weighting=min_snr", "weighting.gamma: then null, now 5.0"),
        ("timesteps=uniform", "timesteps.stratified: then true, now false"),
        ("trainer.precision=bf16-mixed", 'trainer.precision: then "32-true", now "bf16-mixed"'),
        ("trainer.gradient_clip_val=null", "trainer.gradient_clip_val: then 1.0, now null"),
        ("+trainer.gradient_clip_algorithm=value", 'trainer.gradient_clip_algorithm: then null, now "value"'),
    ],
)
def test_what_matters_may_not_differ(word: str, reported: str, copy: Path, cache: Path, train: Callable) -> None:
    before = files(copy)
    answer = train(cache, copy, *QUIET, "max_steps=9", word)
    assert answer.code == 1
    assert f"{copy} cannot be continued, for its run differs:" in answer.err
    assert f"\n  {reported}" in answer.err
    assert "run_dir" in answer.err
    assert "resume=restart" in answer.err
    assert files(copy) == before


def test_all_that_differs_is_reported_at_once(copy: Path, cache: Path, train: Callable) -> None:
    answer = train(cache, copy, *QUIET, "seed=3", "batch_size=2", "pictures.count=1")
    assert "\n  batch_size: then 4, now 2\n  seed: then 0, now 3\ngive these" in answer.err


# What may


def test_a_run_goes_on_under_settings_that_leave_its_weights_alone(copy: Path, cache: Path, train: Callable) -> None:
    words = ["max_steps=10", "micro_batch_size=2", "checkpoint.every=1", "checkpoint.keep=2", "checkpoint.best=loss"]
    words += ["pictures.every=9", "pictures.prompts=[a circle]", "pictures.seed=5", "validation.every=9", "sampler=ddpm"]
    words += ["validation.repeats=1", "guidance.scale=1", "spacing=linspace", "channels_last=true", "scale_check=false"]
    words += ["trainer.log_every_n_steps=2", "max_time=10:00:00", "max_nonfinite_steps=5", "optimizer.fused=false"]
    words += ["network.gradient_checkpointing=true", "workers=1", "autoencoder=identity"]
    answer = train(cache, copy, *words)
    assert answer.code == 0, answer.err
    assert [line["step"] for line in lines(copy)] == [*range(1, 11)]
    assert (copy / "samples/step-00000009.png").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.devices=2", "trainer.num_nodes=3", "trainer.strategy=ddp", "trainer.accelerator=gpu", "threads=7"],
        ["logger=wandb", "compile=inductor", "cache=[a,b]", "run_dir=elsewhere", "resume=never", "debug=true"],
        ["trainer.deterministic=true", "trainer.benchmark=true", "max_pixels=5", "checkpoint.shares=true", "max_steps=1"],
        ["text_encoder=clip_vit_l_14", "text_encoder.weights=elsewhere"],
    ],
)
def test_where_and_how_fast_it_runs_may_differ(words: list[str], tmp_path: Path) -> None:
    needed = ["cache=c", "run_dir=d"]
    before = [word for word in words if word.startswith("text_encoder=")]
    then, now = (compose_as(TrainSettings, [*needed, *own]) for own in (before, words))
    refuse_other_run(then, now, "the data", tmp_path, {"content": "the data", "starts": []})


def closed_form(kind: str, step: int, max_steps: int) -> float:
    """The rate of the update number `step` (from 0), after two of warm-up to 1e-3."""
    share = (step - 2) / (max_steps - 2)
    return 1e-3 * {"cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share, "constant": 1.0}[kind]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_more_steps_follow_the_longer_runs_rate(
    kind: str, cache: Path, train: Callable, run_with: Callable, tmp_path: Path
) -> None:
    words = [*QUIET, f"lr_schedule={kind}", "parameter_groups.text_encoder_lr=1e-4"]
    copy = Path(shutil.copytree(run_with(*words), tmp_path / "run"))
    answer = train(cache, copy, *words, "max_steps=14")
    assert answer.code == 0, answer.err
    assert "max_steps was 8 and is 14: the LR schedule follows it from here on" in answer.out
    rates = [line["lr"] for line in lines(copy)]
    assert len(rates) == 14
    expected = [closed_form(kind, step, 8 if step < 8 else 14) for step in range(2, 14)]
    assert rates[2:] == pytest.approx(expected, rel=1e-12, abs=1e-18)
    groups = torch.load(copy / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    following = closed_form(kind, 14, 14) / 1e-3
    assert [group["lr"] for group in groups] == pytest.approx([group["initial_lr"] * following for group in groups])
    assert {group["initial_lr"] for group in groups} == {1e-3, 1e-4}


def test_fewer_steps_than_were_made_change_nothing(copy: Path, cache: Path, train: Callable) -> None:
    checkpoint = (copy / "checkpoints/last.ckpt").read_bytes()
    answer = train(cache, copy, *QUIET, "max_steps=5")
    assert answer.code == 0
    assert f"continuing {copy} at step 8\n" in answer.out, "scripts read this line"
    assert "8 of max_steps=5" in answer.out
    assert (copy / "checkpoints/last.ckpt").read_bytes() == checkpoint
    assert len(lines(copy)) == 8


def test_what_makes_the_goal_of_bits_unreachable_is_noted(copy: Path, cache: Path, train: Callable) -> None:
    found = record(copy)
    found["starts"][-1]["packages"]["torch"] = "0.1"
    found["starts"][-1]["threads"] = 64
    (copy / "run.json").write_text(json.dumps(found))
    answer = train(cache, copy, *QUIET, "max_steps=9")
    assert answer.code == 0, answer.err
    assert "note: packages, threads changed since the last start, so it goes on to rounding, not bit for bit" in answer.out
    answer = train(cache, copy, *QUIET, "max_steps=10")
    assert "changed since" not in answer.out
