"""Settings without effect are reported, once each, and nothing is reported of a run whose settings all have one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ldm_train.settings.composition import compose, groups
from ldm_train.settings.without_effect import notes
from tests.settings.test_strict import NEEDED


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`tell(verb, *words)`, in a folder with caches `named` and `unnamed`, and runs `drawn` and `measured`."""
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "MASTER_ADDR", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, held_out in (("named", 3), ("unnamed", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"held_out": held_out}))
    for name, target in (("drawn", "Drawings"), ("measured", "HeldOut")):
        (tmp_path / name).mkdir()
        OmegaConf.save({"evaluation": {"_target_": f"x.{target}"}}, tmp_path / name / "config.yaml")
    return lambda verb, *words: notes(verb, compose(verb, [*NEEDED[verb], *words]))


@pytest.mark.parametrize(
    ("verb", "words", "reported"),
    [
        ("train", "crop=random background=red", "note: crop, background=red have no effect: a cache is given"),
        ("train", "crop.mirrored=true", "note: crop.mirrored=true has no effect"),
        (
            "train",
            "max_pixels=5 max_unusable=1 dtype=float32",
            "note: max_pixels=5, max_unusable=1.0, dtype=float32 have no effect",
        ),
        ("train", "cache_repeats=[2]", "note: cache_repeats=[2.0] has no effect: there is one cache"),
        ("train", "cache=[a] cache_shares=[1.0]", "note: cache_shares=[1.0] has no effect: there is one cache"),
        (
            "train",
            "pictures.count=4 pictures.prompts=[]",
            "note: pictures.count=4 has no effect: pictures.prompts=[] draws no pictures",
        ),
        ("train", "pictures.prompts=[] sampler=ddpm pictures.steps=5", "note: pictures.steps=5 has no effect"),
        (
            "train",
            "pictures.prompts=[] features=null sampler=ddpm",
            "note: sampler has no effect: pictures.prompts=[] draws",
        ),
        ("train", "features=null metrics.count=99 metrics.seed=1", "note: metrics.count=99, metrics.seed=1 have no effect"),
        ("train", "metrics.every=null features=clip", "note: features has no effect: metrics.every=null"),
        ("train", "metrics.every=501 max_steps=500", "note: metrics.every=501 has no effect: max_steps=500, at whose end"),
        ("train", "cache=named held_out=0.1", "note: held_out=0.1 has no effect: the cache's source names its held-out"),
        ("train", "cache=unnamed held_out=0.0 validation.every=5", "note: validation.every=5 has no effect: held_out=0"),
        (
            "train",
            "checkpoint.every=900 max_steps=500",
            "note: checkpoint.every=900 has no effect: max_steps=500, at whose end",
        ),
        ("train", "validation.every=501 max_steps=500", "note: validation.every=501 has no effect"),
        ("train", "pictures.every=501 max_steps=500", "note: pictures.every=501 has no effect"),
        ("train", "trainer.strategy=ddp", "note: trainer.strategy=ddp has no effect: trainer.devices=1 is one process"),
        ("train", "+guidance.weak=r", "note: guidance.weak=r has no effect: guidance=classifier_free"),
        ("train", "trainer.benchmark=true trainer.accelerator=cpu", "note: trainer.benchmark=true has no effect"),
        (
            "train",
            "lr_schedule.warmup_steps=100 max_steps=100",
            "lr_schedule.warmup_steps=100 is all of max_steps=100",
        ),
        (
            "train",
            "caption_dropout=0",
            "caption_dropout=0 never trains the empty caption, from which guidance.scale=2.0",
        ),
        ("train", "optimizer.lr=0", "optimizer.lr=0 trains nothing"),
        ("train", "trainer.num_nodes=2", "trainer.num_nodes=2 waits for the other nodes"),
        (
            "train_autoencoder",
            "equivariance_share=0.2",
            "note: equivariance_share=0.2 has no effect: equivariance_weight=0 does not compute",
        ),
        ("train_autoencoder", "pictures.every=9000", "note: pictures.every=9000 has no effect: max_steps=7000"),
        ("encode", "trainer.strategy=ddp", "note: trainer.strategy=ddp has no effect"),
        ("check", "caption_dropout=0", "caption_dropout=0 never trains"),
        ("sample", "guidance.scale=1 negative_prompt=blur", "note: negative_prompt=blur has no effect: guidance.scale=1"),
        ("sample", "guidance.scale=1 guidance.rescale=0.7", "note: guidance.rescale=0.7 has no effect: guidance.scale=1"),
        (
            "evaluate",
            "evaluation=held_out features=null steps=5",
            "note: steps=5 has no effect: evaluation=held_out, without",
        ),
        ("evaluate", "run_dir=measured sampler=heun features=null", "note: sampler has no effect: evaluation=held_out"),
        ("evaluate", "run_dir=null pictures=a real=b seed=1", "note: seed=1 has no effect: pictures=a are there already"),
        ("evaluate", "run_dir=null pipeline=a sampler=heun", "note: sampler has no effect: a pipeline brings its own"),
        ("evaluate", "features=null real=b", "note: real=b has no effect: features=null compares no pictures"),
    ],
)
def test_a_setting_without_effect_is_reported(verb: str, words: str, reported: str, tell: Callable) -> None:
    [line] = tell(verb, *words.split())
    assert line.startswith(reported)
    assert "{" not in line


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        *[(verb, "") for verb in NEEDED],
        *[("train", f"experiment={experiment}") for experiment in groups()["experiment"]],
        ("train", "cache=null source=folder source.path=x crop=random background=red max_pixels=5 dtype=float32"),
        ("train", "cache=[named,unnamed] cache_repeats=[1,2] held_out=0.1"),
        ("train", "cache=named validation.every=5"),
        ("train", "cache=unnamed held_out=0.1 validation.every=5"),
        ("train", "cache=missing held_out=0.1 validation.every=5"),
        ("train", "pictures.count=4"),
        ("train", "features=null"),
        ("train", "metrics.every=null"),
        ("train", "features=null clip_score=open_clip metrics.count=99"),
        ("train", "max_steps=300"),
        ("train", "checkpoint.every=300 max_steps=300"),
        ("train", "trainer.strategy=ddp trainer.devices=2"),
        ("train", "lr_schedule.warmup_steps=99 max_steps=100"),
        ("train", "caption_dropout=0 guidance.scale=1"),
        ("train", "caption_dropout=0 guidance=autoguidance guidance.weak=x"),
        ("sample", "negative_prompt=blur guidance.rescale=0.7"),
        ("evaluate", "run_dir=drawn sampler=heun steps=5"),
        ("evaluate", "run_dir=measured steps=5"),
        ("sample", "guidance.scale=1 negative_prompt=blur x.guidance=[1,2]"),
        ("evaluate", "run_dir=nowhere steps=5"),
    ],
)
def test_nothing_is_reported_of_settings_that_have_one(verb: str, words: str, tell: Callable) -> None:
    assert tell(verb, *words.split()) == []


def test_the_first_process_tells_it_and_no_other(ldm_train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "cache=nowhere", "run_dir=y", "caption_dropout=0"]
    assert "warning: caption_dropout=0" in ldm_train(*words).out
    monkeypatch.delenv("LDM_TRAIN_LAUNCHER")  # this process has no launcher to end with
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ldm_train(*words).out == ""
