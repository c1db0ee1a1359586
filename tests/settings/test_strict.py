"""Unknown settings and values out of range, from words, files and experiments: reported at once, by name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.precision.precision import _PRECISION_INPUT_STR
from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.strategies import StrategyRegistry

from ldm_train.assembly.trainer import refuse_absent, refuse_fused_scaling, refuse_sharding
from ldm_train.assembly.trainer import trainer_options as options_of_trainer
from ldm_train.cli.main import VERBS
from ldm_train.settings import composition, constructors, shipped
from ldm_train.settings.composition import ConfigError, compose, compose_as, folder, groups
from ldm_train.settings.schema.options import ACCELERATORS, ARGUMENTS, PRECISIONS, STRATEGIES
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.signatures import signature
from ldm_train.settings.strict import SET_BY_THE_RUN, TRAINER
from ldm_train.settings.validation import out_of_range
from ldm_train.training.optimization.sharding import FullySharded

NEEDED = {
    "fit": ["source.path=x", "out=y"],
    "train": ["cache=x", "run_dir=y"],
    "train_autoencoder": ["source.path=x", "run_dir=y"],
    "encode": ["source.path=x", "cache=y"],
    "check": ["source.path=x"],
    "sample": ["run_dir=x", "prompts=[a]", "out=y"],
    "evaluate": ["run_dir=x", "out=y"],
    "export": ["run_dir=x", "out=y.safetensors"],
    "report": ["run_dir=x", "out=y.html"],
    "runs": [],
    "tokens": ["text=x"],
    "explain": ["run_dir=x", "out=y.html"],
    "playground": ["run_dir=x"],
}


def refused(verb: str, *words: str) -> str:
    with pytest.raises(ConfigError) as error:
        compose(verb, [*NEEDED[verb], *words])
    return str(error.value)


@pytest.mark.parametrize(
    ("verb", "word", "reported"),
    [
        ("train", "+max_stepz=3", "unknown setting 'max_stepz' of train; did you mean 'max_steps'"),
        ("train", "++batchsize=3", "did you mean 'batch_size'"),
        ("train", "+checkpoint.evry=3", "unknown setting 'checkpoint.evry' of train; did you mean 'checkpoint.every'"),
        (
            "train",
            "+ema.decai=3",
            "unknown setting 'ema.decai' of decaying, which takes ema.decay, ema.offload, ema.start_step; did you",
        ),
        ("train", "+ema.decai=3", "did you mean 'ema.decay'"),
        ("train", "ema._target_=ldm_train.training.ema.ema.power", "leave out what another constructor takes: ~ema.decay"),
        ("train", "+optimizer.lrr=1", "did you mean 'optimizer.lr'"),
        ("train", "+network.head_sise=8", "did you mean 'network.head_size'"),
        ("train", "+network={head_sise: 8}", "did you mean 'network.head_size'"),
        ("train", "+timesteps.strat=true", "unknown setting 'timesteps.strat' of Uniform, which takes timesteps.quantiles,"),
        ("train", "+weighting.gamma=5", "unknown setting 'weighting.gamma' of UniformWeight, which takes no setting"),
        ("train", "+trainer.gradient_clip_value=1", "of Lightning's Trainer; did you mean 'trainer.gradient_clip_val'"),
        ("train", "+trainer.max_epochs=1", "trainer.max_epochs is set by the run, which is one endless epoch"),
        ("train", "trainer.max_epochs=1", "trainer.max_epochs is set by the run, which is one endless epoch"),
        ("train", "+trainer.accumulate_grad_batches=2", "is set by the run, from batch_size and micro_batch_size"),
        ("train", "+network.in_channels=4", "network.in_channels is set by the run itself"),
        ("train", "optimizer.amsgrad=true", "AdamW takes it: +optimizer.amsgrad=…"),
        ("train", "trainer.max_time=1h", "Trainer takes it: +trainer.max_time=…"),
        ("train", "optimizer._target_=torch.optim.SGD", "unknown setting 'optimizer.betas' of SGD, which takes optimizer"),
        (
            "train",
            "optimizer._target_=torch.optim.SGD",
            "leave out what another constructor takes: ~optimizer.betas ~optimizer.eps",
        ),
        (
            "train",
            "logger.offline=true",
            "logger.offline is of the group logger, and no option of it is chosen; add logger=OPTION",
        ),
        (
            "train",
            "+logger.offline=true",
            "logger.offline is of the group logger, and no option of it is chosen; add logger=OPTION",
        ),
        ("train", "optimizer=null", "train needs optimizer=…, one of: adafactor, adam, adamw, "),
        ("train", "~ema", "train needs ema=…: it can be neither null nor deleted"),
        ("train", "~checkpoint.every", "train needs checkpoint.every: it cannot be deleted"),
        ("train", "~optimizer", "train needs optimizer=…: it can be neither null nor deleted"),
        ("train", "checkpoint=5", "checkpoint=5 is no value: checkpoint has the settings checkpoint.every, checkpoint.keep"),
        ("train", "ema=0.9", "ema=0.9 is no option; there are: decay, power (a setting of it is ema.NAME=VALUE)"),
        ("train", "hydra.run.dir=x", "go with --multirun"),
        ("train", "+network=unet_compact", "Multiple values for network"),
        ("train", "+network=unet", "network=unet is no option; there are: diffusers_unet, "),
        ("train", "optimizer={lrr: 1}", "optimizer={lrr: 1} is no option"),
        ("train", "~network=unet", "Could not delete 'network=unet'"),
        ("train", "offset_noise=null", "offset_noise=null is not accepted; offset_noise takes a number"),
        ("train", "input_perturbation=null", "input_perturbation=null is not accepted; input_perturbation takes a number"),
        ("train", "background=null", "background=null is not accepted; background takes one text"),
        ("train", "run_dir=null", "run_dir=null is not accepted; run_dir takes a path"),
        ("train", "optimizer.lr=null", "optimizer.lr=null is not accepted; optimizer.lr takes a number"),
        ("train", "trainer.devices=null", "trainer.devices=null is not accepted"),
        ("train", "network.channels=64", "network.channels=64 is not accepted; network.channels takes a list"),
        ("train", "network=unet_compact", ""),
        ("encode", "cache=null", "cache=null is not accepted"),
        ("encode", "source.path=null", "source.path=null is not accepted"),
        ("encode", "+source.captoins=auto", "did you mean 'source.captions'"),
        ("encode", "+crop.image_size=3", "crop.image_size is set by the run itself"),
        ("sample", "+sampler.etta=1", "did you mean 'sampler.eta'"),
        ("evaluate", "+evaluation.seeds=2", "evaluation.seeds is of the group evaluation, and no option of it is chosen"),
        ("train_autoencoder", "+architecture.chanels=[8]", "did you mean 'architecture.channels'"),
    ],
)
def test_what_nobody_would_read_is_refused_with_the_nearest(verb: str, word: str, reported: str) -> None:
    if reported:
        assert reported in refused(verb, word)
    else:
        compose(verb, [*NEEDED[verb], word])


@pytest.mark.parametrize("plus", ["", "+"])
def test_a_setting_of_the_source_is_not_asked_to_join_a_cache(plus: str) -> None:
    message = refused("train", "cache=caches/a", f"{plus}source.path=x")
    assert message.startswith("source.path does not go with cache=caches/a")
    assert "Leave source.path out; or set cache=null" in message
    assert "source=OPTION, one of: class_folders" in message
    assert refused("train", "cache=null", f"{plus}source.path=x").startswith("source.path is of the group source")


@pytest.mark.parametrize(
    "words",
    [
        ["+optimizer.amsgrad=true"],
        ["trainer.gradient_clip_val=null"],
        ["+trainer.max_time=00:01:00:00"],
        ["+trainer.detect_anomaly=true"],
        ["~ema.decay"],
        ["network=diffusers_unet", "+network.dropout=0.1"],
        ["logger=wandb", "logger.tags=[a]", "+logger.job_type=trial"],
        ["network.heads=4", "network.middle_attention=null"],
        ["autoencoder=null"],
        ["experiment=openmoji", "text_encoder=null"],
        ["~network.extra_up_block"],
        ["~network.middle_attention"],
        ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "~optimizer.eps", "+optimizer.momentum=0.9"],
        ["weighting=learned", "+weighting.base={_target_: ldm_train.diffusion.weighting.MinSNR, gamma: 4.0}"],
        ["cache=null"],
        ["run_dir=out/optimizer.lr=0.001,seed=0"],
        ["cache=a~b"],
    ],
)
def test_what_is_read_is_accepted(words: list[str]) -> None:
    compose("train", [*NEEDED["train"], *words])


def test_what_a_message_says_to_leave_out_can_be_left_out() -> None:
    word = "network._target_=ldm_train.networks.diffusers_unet.DiffusersUNet"
    reported = refused("train", word).rpartition(": ")[2].split()
    assert "~network.middle_attention" in reported  # which is null
    network = compose_as(TrainSettings, [*NEEDED["train"], word, *reported]).network
    assert not {name.removeprefix("~network.") for name in reported} & network.as_plain().keys()


def test_a_network_in_an_options_place_has_what_is_read_of_every_network(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("network: {_target_: ldm_train.networks.diffusers_unet.DiffusersUNet}")
    network = compose_as(TrainSettings, [*NEEDED["train"], f"config={file}"]).network
    assert network.kept == {"weights": None, "averaged": True, "add_input_channels": False}


def test_constructors_within_constructors_are_looked_at() -> None:
    base = "+weighting.base={_target_: ldm_train.diffusion.weighting.MinSNR, gama: 4.0}"
    assert "did you mean 'weighting.base.gamma'" in refused("train", "weighting=learned", base)


def test_a_mistyped_setting_is_reported_before_those_of_another_constructor() -> None:
    assert "did you mean 'optimizer.momentum'" in refused(
        "train", "optimizer._target_=torch.optim.SGD", "+optimizer.momentm=1"
    )


@pytest.fixture
def own_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the configs, in which files can be written."""
    copy = tmp_path / "conf"
    shutil.copytree(folder(), copy)
    for module in (shipped, composition, constructors):
        monkeypatch.setattr(module, "folder", lambda: copy)
    return copy


BAD = [
    ("max_stepz: 3", "unknown setting 'max_stepz' of train in {file}; did you mean 'max_steps'"),
    ("optimizer: {lrr: 1}", "in {file}; did you mean 'optimizer.lr'"),
    ("pictures: {evry: 3}", "unknown setting 'pictures.evry' of train in {file}; did you mean 'pictures.every'"),
    ("trainer: {devises: 3}", "in {file}; did you mean 'trainer.devices'"),
    ("trainer: {max_steps: 3}", "trainer.max_steps in {file} is set by the run, from max_steps"),
    ("batch_size: many", "batch_size=many in {file} is not accepted; batch_size takes a whole number"),
    ("offset_noise: null", "offset_noise=null in {file} is not accepted; offset_noise takes a number"),
    ("optimiser: {lr: 1.0}", "unknown setting 'optimiser' of train in {file}; did you mean 'optimizer'"),
]


@pytest.mark.parametrize(("text", "reported"), BAD)
def test_a_typo_in_an_experiment_names_the_experiment(text: str, reported: str, own_conf: Path) -> None:
    (own_conf / "experiment/mine.yaml").write_text(f"# @package _global_\n{text}\n")
    assert reported.format(file="experiment=mine") in refused("train", "experiment=mine")


@pytest.mark.parametrize(("text", "reported"), BAD)
def test_a_typo_in_a_file_names_the_file(text: str, reported: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert reported.format(file=f"{tmp_path}/mine.yaml") in refused("train", f"config={tmp_path}/mine.yaml")


def test_a_typo_in_an_option_is_reported(own_conf: Path) -> None:
    (own_conf / "sampler/mine.yaml").write_text("_target_: ldm_train.samplers.ddim.DDIM\netta: 1.0\n")
    assert "did you mean 'sampler.eta'" in refused("sample", "sampler=mine")


@pytest.mark.parametrize("verb", VERBS)
def test_shipped_defaults_are_in_range(verb: str) -> None:
    assert out_of_range(compose(verb, NEEDED[verb])) == []


def test_every_argument_in_the_table_is_one_of_an_option() -> None:
    names = {f"{g}.{key}" for g, all_ in groups().items() for option in all_ for key in shipped.shipped(f"{g}/{option}")}
    assert ARGUMENTS.keys() <= names


def test_choices_are_lightnings() -> None:
    assert set(STRATEGIES) <= {"auto", "fsdp2", *StrategyRegistry.available_strategies()}
    settings = compose_as(TrainSettings, [*NEEDED["train"], "trainer.strategy=fsdp2"])
    assert isinstance(options_of_trainer(settings.trainer)["strategy"], FullySharded)
    assert set(ACCELERATORS) == {"auto", "gpu", *AcceleratorRegistry.available_accelerators()}
    assert {"auto", "16", "32", "64", "bf16", *_PRECISION_INPUT_STR.__args__} == set(PRECISIONS)
    found = signature(TRAINER)
    assert found is not None
    assert set(SET_BY_THE_RUN) <= set(found.kinds)


VALUES = [
    *[(name, low) for name in ("batch_size", "max_steps", "micro_batch_size", "threads", "image_size") for low in (0, -1)],
    *[(name, 0) for name in ("validation.every", "validation.repeats", "checkpoint.every", "pictures.every")],
    *[(name, 0) for name in ("metrics.every", "metrics.steps")],
    ("metrics.count", 3),
    *[(name, 0) for name in ("pictures.count", "pictures.steps", "trainer.num_nodes", "trainer.log_every_n_steps")],
    *[("caption_dropout", value) for value in (-0.1, 1.1, ".nan")],
    *[(name, -0.1) for name in ("offset_noise", "input_perturbation", "optimizer.lr", "lr_schedule.final")],
    *[("held_out", value) for value in (-0.1, 1)],
    *[("ema.decay", value) for value in (-0.1, 1)],
    ("optimizer.lr", ".inf"),
    ("micro_batch_size", 2.5),
    ("threads", "many"),
    ("lr_schedule.warmup_steps", -1),
    ("trainer.gradient_clip_val", -1),
    ("trainer.devices", 0),
    ("trainer.devices", "[]"),
    ("trainer.devices", "some"),
    ("trainer.devices", -2),
    ("trainer.accelerator", "gpuu"),
    ("trainer.precision", "bf16-mixd"),
    ("trainer.strategy", "dpp"),
    ("dtype", "int8"),
    ("resume", "perhaps"),
]


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_values_that_no_run_can_have_are_named(name: str, value: object) -> None:
    try:
        [message] = out_of_range(compose("train", [*NEEDED["train"], f"{name}={value}"]))
    except ConfigError as error:  # another type
        message = str(error)
    assert message.startswith(f"{name}=")
    assert any(word in message for word in ("must be", "accepted: ", f"{name} takes"))


@pytest.mark.parametrize("devices", [1, 8, -1, "auto", "-1", "2", "0,1", "0,", [0], [1, 3]])
def test_devices_are_a_number_a_list_or_all(devices: object) -> None:
    word = f"trainer.devices={devices}" if isinstance(devices, int | list) else f"trainer.devices='{devices}'"
    assert out_of_range(compose("train", [*NEEDED["train"], word.replace(" ", "")])) == []


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (
            ["train", "trainer.precision=16-mixed", "trainer.accelerator=cpu"],
            "needs a GPU: on a CPU Lightning would compute in",
        ),
        (["train", "trainer.precision=16", "trainer.accelerator=cpu"], "choose trainer.precision=bf16-mixed or 32-true"),
        (["train", "trainer.strategy=dpp"], "did you mean 'ddp'?"),
        (["train", "threads=0", "max_steps=0"], "max_steps=0 must be a whole number of at least 1\nthreads=0 must be"),
        (["encode", "max_pixels=0"], "max_pixels=0 must be a whole number of at least 1"),
        (["encode", "unchanged_by=faith"], "unchanged_by=faith is not known; accepted: hash, stat"),
        (["sample", "device=cudaa"], "device=cudaa is not known; accepted: auto, cpu, cuda"),
        (["sample", "strength=1.5"], "strength=1.5 must be from 0 to 1"),
        (["evaluate", "evaluation=drawings", "evaluation.source=x", "evaluation.seeds=0"], "evaluation.seeds=0 must be"),
        (["train_autoencoder", "equivariance_share=0"], "equivariance_share=0 must be above 0 and up to 1"),
        (["train_autoencoder", "optimizer.lr=-1e-3"], "optimizer.lr=-0.001 must be at least 0"),
        (["train_autoencoder", "max_steps=0"], "max_steps=0 must be a whole number of at least 1"),
    ],
)
def test_they_are_refused_before_anything_is_read(words: list[str], reported: str, ldm_train: Callable) -> None:
    verb, *more = words
    answer = ldm_train(verb, *NEEDED[verb], *more)
    assert answer.code == 1
    assert reported in answer.err
    assert answer.out == ""


@pytest.mark.parametrize("precision", ["16-mixed", "16"])
def test_scaled_gradients_are_not_for_a_fused_optimizer(precision: str) -> None:
    words = [*NEEDED["train"], f"trainer.precision={precision}"]
    with pytest.raises(ValueError, match=f"trainer.precision={precision} does not go with a fused optimizer"):
        refuse_fused_scaling(compose_as(TrainSettings, words))
    for mended in ("optimizer.fused=false", "trainer.precision=bf16-mixed"):
        refuse_fused_scaling(compose_as(TrainSettings, [*words, mended]))


@pytest.mark.parametrize("precision", ["16-mixed", "16"])
def test_scaled_gradients_are_not_for_shared_parameters(precision: str) -> None:
    words = [*NEEDED["train"], f"trainer.precision={precision}"]
    with pytest.raises(ValueError, match=f"trainer.precision={precision} does not go with trainer.strategy=fsdp2"):
        refuse_sharding(compose_as(TrainSettings, [*words, "trainer.strategy=fsdp2"]), shardable=True)
    refuse_sharding(compose_as(TrainSettings, [*words, "trainer.strategy=ddp"]), shardable=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")
@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["train", "trainer.accelerator=gpu"], "trainer.accelerator=gpu: there is none on this machine"),
        (["train_autoencoder", "trainer.accelerator=cuda"], "trainer.accelerator=cuda: there is none on this machine"),
        (["train", "trainer.precision=16-mixed"], "trainer.precision=16-mixed needs a GPU"),
    ],
)
def test_devices_that_are_not_there_are_refused_before_anything_is_read(
    words: list[str], reported: str, ldm_train: Callable
) -> None:
    verb, *more = words
    answer = ldm_train(verb, *NEEDED[verb], *more)
    assert answer.code == 1
    assert reported in answer.err


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["trainer.accelerator=gpu", "trainer.devices=4"], "trainer.devices=4: this machine has 2 GPUs"),
        (["trainer.devices=4"], "trainer.devices=4: this machine has 2 GPUs"),
        (["trainer.devices=2", "trainer.precision=16-mixed"], None),
        (["trainer.precision=16-mixed"], None),
        (["trainer.accelerator=cuda"], None),
        (["trainer.accelerator=cpu", "trainer.devices=4"], None),
    ],
)
def test_more_gpus_than_there_are_are_refused(
    words: list[str], reported: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = compose_as(TrainSettings, [*NEEDED["train"], *words])
    if reported is None:
        refuse_absent(config.trainer)
    else:
        with pytest.raises(ValueError, match=reported):
            refuse_absent(config.trainer)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_device_that_is_not_there_is_refused(device: str, ldm_train: Callable, trained: Path, tmp_path: Path) -> None:
    answer = ldm_train("sample", f"run_dir={trained}", "prompts=[a]", f"out={tmp_path}/o", f"device={device}")
    assert answer.code == 1
    assert f"device={device}: this machine has no GPUs; device=auto takes what there is" in answer.err
