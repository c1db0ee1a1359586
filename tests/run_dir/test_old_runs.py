"""Runs of older versions, whose configs lack settings that came later, are continued, drawn from, measured and exported."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

SINCE = (
    *("trained", "prior", "offset_noise", "input_perturbation", "parameter_groups", "fused_backward", "compile"),
    *("ema.start_step", "lr_schedule.cooldown_steps", "schedule.shift", "metrics", "health", "evaluation", "background"),
)


def strip(run_dir: Path, names: tuple[str, ...]) -> None:
    """Leave settings out of a run's config, as if a version had written it that did not know them."""
    config: Any = OmegaConf.load(run_dir / "config.yaml")
    for name in names:
        parent, _, key = name.rpartition(".")
        del (OmegaConf.select(config, parent) if parent else config)[key]
    OmegaConf.save(config, run_dir / "config.yaml")


@pytest.fixture
def old(trained: Path, tmp_path: Path) -> Path:
    run_dir = Path(shutil.copytree(trained, tmp_path / "old"))
    strip(run_dir, SINCE)
    return run_dir


def test_it_is_continued(old: Path, cache: Path, train: Callable) -> None:
    answer = train(cache, old, "max_steps=9")
    assert answer.code == 0, answer.err
    assert "at step 8" in answer.out


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("network.scale_shift=false", "network.scale_shift: then true, now false"),
        ("offset_noise=0.1", "offset_noise: then 0.0, now 0.1"),
        ("ema.start_step=3", "ema.start_step: then null, now 3"),
        ("parameter_groups.decay_norms_and_biases=true", "parameter_groups.decay_norms_and_biases: then false, now true"),
        ("adapter=lora", "adapter.rank: then null, now 8"),
    ],
)
def test_a_later_setting_that_changes_it_is_refused(
    word: str, told: str, old: Path, trained: Path, cache: Path, train: Callable
) -> None:
    answer = train(cache, old, "max_steps=9", word, *([f"network.weights={trained}"] if word == "adapter=lora" else []))
    assert answer.code == 1
    assert f"\n  {told}" in answer.err


@pytest.mark.parametrize("verb", ["sample", "export", "report", "evaluate"])
def test_it_is_opened(verb: str, old: Path, cache: Path, ldm_train: Callable, tmp_path: Path) -> None:
    more = {
        "sample": ("prompts=[x]", "steps=2", f"out={tmp_path / 'pictures'}"),
        "export": (f"out={tmp_path / 'weights.safetensors'}",),
        "report": (f"out={tmp_path / 'report.html'}",),
        "evaluate": (f"cache={cache}", "samples=2", "steps=2", "features=null", f"out={tmp_path / 'told.json'}"),
    }
    answer = ldm_train(verb, f"run_dir={old}", *more[verb])
    assert answer.code == 0, answer.err
