"""`config=FILE`: a file stands for words before those of the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.settings.composition import ConfigError, as_yaml, compose, compose_as, folder, groups
from ldm_train.settings.schema.training import TrainSettings

GONE = [f"~optimizer.{name}" for name in ("betas", "eps", "weight_decay", "fused")]
NEEDED = ["cache=x", "run_dir=y"]


@pytest.fixture
def with_file(tmp_path: Path) -> Callable:
    """`with_file(text, *words)`: train's config with such a file."""

    def composed(text: str, *words: str) -> TrainSettings:
        (tmp_path / "mine.yaml").write_text(text)
        return compose_as(TrainSettings, [*NEEDED, f"config={tmp_path}/mine.yaml", *words])

    return composed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_steps: 7", ["max_steps=7"]),
        ("max_steps: 7\noptimizer: {lr: 3.0e-4}", ["max_steps=7", "optimizer.lr=3e-4"]),
        ("schedule: cosine\nprediction: velocity", ["schedule=cosine", "prediction=velocity"]),
        ("defaults:\n  - override /schedule: cosine\nschedule: {offset: 0.01}", ["schedule=cosine", "schedule.offset=0.01"]),
        ("pictures: {prompts: ['a, b=c', \"it's {x}\", '']}", ["pictures.prompts=['a, b=c','it\\'s {x}','']"]),
        ("micro_batch_size: null\ntrainer: {devices: [0, 1]}", ["trainer.devices=[0,1]"]),
        (
            "pictures: {prompts: [{prompt: 'a, b: c', seed: 7, guidance: 2.5}, a cat --d 7]}",
            ["pictures.prompts=[{prompt: 'a, b: c', seed: 7, guidance: 2.5},a cat --d 7]"],
        ),
        ("logger: wandb", ["logger=wandb"]),
        ("logger: null", []),
        ("optimizer: {amsgrad: true}", ["+optimizer.amsgrad=true"]),
        ("experiment: openmoji", ["experiment=openmoji"]),
        ("", []),
        (
            "optimizer: {_target_: torch.optim.SGD, _partial_: true, lr: 0.1}",
            ["optimizer._target_=torch.optim.SGD", "optimizer.lr=0.1", *GONE],
        ),
    ],
)
def test_a_file_is_the_words_that_it_stands_for(text: str, words: list[str], with_file: Callable) -> None:
    assert with_file(text) == compose("train", [*NEEDED, *words])


@pytest.mark.parametrize("experiment", groups()["experiment"])
def test_an_experiment_works_as_a_file_anywhere(experiment: str, with_file: Callable) -> None:
    text = (folder() / f"experiment/{experiment}.yaml").read_text()
    assert with_file(text) == compose("train", [*NEEDED, f"experiment={experiment}"])


def test_the_command_line_overrules_the_file_and_the_file_an_experiment(with_file: Callable) -> None:
    text = "max_steps: 7\nbatch_size: 5\nschedule: cosine"
    config = with_file(text, "batch_size=6", "experiment=openmoji", "schedule=linear")
    assert (config.max_steps, config.batch_size, config.optimizer.get("lr")) == (7, 6, 1e-3)
    assert config.schedule.target.endswith(".linear")


@pytest.mark.parametrize(
    "words",
    [
        ["network=stable_diffusion_1", "weighting=learned", "spacing=karras", "seed=5", "pictures.prompts=['a=b, c']"],
        ["network=unet_compact", "network.channels=[8,16,32]", "logger=wandb", "trainer.devices=2", "cache=[a,b]"],
        ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "~optimizer.eps", "~optimizer.fused", "crop=random"],
        ["experiment=openmoji", "guidance=autoguidance", "guidance.weak=r", "~network.extra_up_block"],
    ],
)
def test_a_runs_config_makes_the_same_config_again(words: list[str], tmp_path: Path) -> None:
    config = compose("train", [*NEEDED, *words])
    (tmp_path / "config.yaml").write_text(as_yaml(config))
    assert compose("train", [f"config={tmp_path}/config.yaml"]) == config
    assert compose_as(TrainSettings, [f"config={tmp_path}/config.yaml", "run_dir=other"]).run_dir == "other"


def test_another_option_on_the_command_line_takes_the_place_of_the_files(with_file: Callable) -> None:
    text = "schedule: {_target_: ldm_train.diffusion.schedules.named.cosine, offset: 0.5}"
    assert with_file(text, "schedule=linear") == compose("train", [*NEEDED, "schedule=linear"])


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("schedule: cosin", "schedule: cosin in {file} is no option; there are: betas, cosine, "),
        ("schedule: cosin", "did you mean 'cosine'?"),
        ("defaults:\n  - override /schedul: cosine", "of defaults in {file} is not `override /GROUP: OPTION`"),
        ("a: [1", "{file} cannot be read as YAML"),
        ("- a\n- b", "{file} must hold settings"),
        ("max_steps: 0.5", "max_steps=0.5 in {file} is not accepted; max_steps takes a whole number"),
    ],
)
def test_a_bad_file_is_named(text: str, reported: str, with_file: Callable, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        with_file(text)
    assert reported.format(file=f"{tmp_path}/mine.yaml") in str(error.value)


def test_a_text_in_a_file_is_as_it_is_written(with_file: Callable) -> None:
    text = "trained: [2026_11_29, 1e3, 007, a]\nmax_time: 11:30:00\npictures: {prompts: [5, no], count: 0x10}\nseed: 1_000"
    source = "source: {_target_: ldm_train.data.sources.folder.Folder, path: 1e3, prefix: 007}"
    config = with_file(f"{text}\n{source}\nspacing: karras")
    assert config.source is not None
    assert (config.source.get("path"), config.source.get("prefix")) == ("1e3", "007")
    assert config.trained == ["2026_11_29", "1e3", "007", "a"]
    assert config.max_time == "11:30:00"
    assert (config.pictures.prompts, config.pictures.count, config.seed) == (["5", "no"], 16, 1000)


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config=.*none.yaml is not there; it takes a YAML file"):
        compose("train", [*NEEDED, f"config={tmp_path}/none.yaml"])


@pytest.mark.parametrize("verb", ["train", "sample"])
def test_help_says_how(verb: str, ldm_train: Callable) -> None:
    assert "config=FILE.yaml" in ldm_train(verb, "--help").out
    assert "--multirun" in ldm_train(verb, "--help").out
