"""`check` reports what `train` would refuse, in the same words: both decide by the same functions."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PICTURES, TEXT

REFUSED = [
    ["optimizer.lr=-1"],
    ["lr_schedule.warmup_steps=5", "lr_schedule.cooldown_steps=9"],
    [
        "optimizer._target_=torch.optim.SGD",
        "~optimizer.betas",
        "~optimizer.eps",
        "optimizer.fused=false",
        "+optimizer.nesterov=true",
    ],
    ["micro_batch_size=3"],
    ["max_time=12"],
    ["compile=nowhere"],
    ["fused_backward=true", "micro_batch_size=2"],
    ["trained=[nothing.*]"],
    ["checkpoint.shares=true"],
    ["trainer.strategy=fsdp2", "channels_last=true"],
    ["trainer.strategy=fsdp2", "micro_batch_size=auto"],
    ["trainer.precision=16-mixed", "trainer.accelerator=cpu"],
    ["network.channels=[16,30]"],
    ["network.head_size=7"],
    ["network.weights=nowhere"],
    ["schedule.zero_terminal_snr=true", "prediction=noise"],
    ["spacing=listed", "spacing.timesteps=[5000]"],
    ["guidance.rescale=2"],
    ["pictures.guidance=[1,1]"],
    ["pictures.prompts=missing.txt"],
    ["metrics.every=4", "features=dinov2", "features.weights=nowhere"],
    ["prior.prompts=a dog"],
    ["cache_shares=[0.5,0.5]"],
    ["prior.prompts=a dog", "network.weights=nowhere", "cache_repeats=[1]"],
    ["cache_repeats=[1]", "cache_shares=[1]"],
    ["logger=wandb"],  # without a login
]


@pytest.mark.slow
@pytest.mark.parametrize("words", REFUSED, ids=lambda words: words[0])
def test_check_says_what_train_refuses(
    words: list[str],
    pictures: Path,
    cache: Path,
    train_words: list[str],
    ldm_train: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    train = ldm_train("train", f"cache={cache}", f"run_dir={tmp_path / 'run'}", *train_words, *words)
    assert train.code != 0
    reason = train.err.rpartition("ldm-train: ")[2].partition("\n(debug=true")[0]
    looked = [f"source.path={pictures}", f"cache={cache}", "measure=false", "dtype=float32"]
    check = ldm_train("check", *looked, *PICTURES, *TEXT, *train_words, *words)
    assert check.code != 0
    assert reason in check.out + check.err


@pytest.mark.slow
@pytest.mark.parametrize("words", [["cache_repeats=[1]", "cache_shares=[1]"], ["cache_shares=[-1,2]"]], ids=str)
def test_check_needs_no_cache_to_refuse_how_caches_are_mixed(
    words: list[str], pictures: Path, train_words: list[str], ldm_train: Callable
) -> None:
    check = ldm_train("check", f"source.path={pictures}", "measure=false", *PICTURES, *TEXT, *train_words, *words)
    assert check.code != 0
    assert "cache_shares" in check.out + check.err
