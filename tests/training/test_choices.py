"""Every schedule, prediction, timesteps, weighting, sampler and network trains and draws, from its config alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.reader import LatentCache
from ldm_train.settings.composition import groups

DIFFUSERS = [
    "network=diffusers_unet",
    "network.block_out_channels=[32,64]",
    "network.norm_num_groups=8",
]
CHOICES = [
    ("schedule=cosine", "prediction=velocity", "weighting=min_snr", "timesteps=uniform", "sampler=heun"),
    ("schedule=linear", "prediction=clean", "sampler=ddpm", "lr_schedule=constant", "spacing=leading"),
    ("schedule=sigmoid", "prediction=flow", "sampler=euler", "timesteps=logit_normal", "offset_noise=0.1"),
    ("schedule=betas", "schedule.betas=[0.1,0.2,0.3,0.4,0.5]", "sampler=euler_ancestral", "pictures.steps=3"),
    ("schedule.zero_terminal_snr=true", "prediction=velocity", "sampler=dpm_solver", "input_perturbation=0.1"),
    ("schedule.discrete=false", "schedule.shift=2", "sampler=dpm_solver_sde", "spacing=linspace", "weighting=debiased"),
    ("schedule=rectified_flow", "prediction=flow", "timesteps=logit_normal", "sampler=unipc", "weighting=learned"),
    ("schedule=edm", "prediction=velocity", "timesteps=log_normal", "spacing=karras", "weighting=edm", "sampler=heun"),
    ("spacing=listed", "spacing.timesteps=[1000,600,300,20]", "guidance.rescale=0.7", "guidance.interval=[0.1,5]"),
    ("trainer.precision=bf16-mixed", "channels_last=true", "trainer.gradient_clip_val=0.01", "error=huber"),
    ("weighting=soft_min_snr", "error=absolute", "timesteps.quantiles=[0.5,1]"),
    (
        "network.heads=2",
        "network.scale_shift=false",
        "network.middle_attention=false",
        "network.gradient_checkpointing=true",
    ),
]


def lines(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("words", CHOICES, ids=lambda words: " ".join(words[:2]))
def test_choices_train_and_draw(words: tuple[str, ...], cache: Path, train: Callable, tmp_path: Path) -> None:
    answer = train(cache, tmp_path / "run", "max_steps=2", *words)
    assert answer.code == 0, answer.err
    assert all(abs(line["loss"]) < 100 for line in lines(tmp_path / "run"))
    assert (tmp_path / "run/samples/step-00000002.png").is_file()


@pytest.mark.parametrize("group", ["schedule", "prediction", "timesteps", "weighting", "sampler", "spacing"])
def test_every_option_is_among_them_or_the_default(group: str) -> None:
    defaults = {"scaled_linear", "noise", "stratified", "uniform", "ddim", "trailing"}
    tried = {word.partition("=")[2] for words in CHOICES for word in words if word.startswith(f"{group}=")}
    assert set(groups()[group]) <= tried | defaults


@pytest.mark.slow
def test_another_network_trains_by_one_word(
    cache: Path, ldm_train: Callable, train_words: list[str], tmp_path: Path
) -> None:
    words = [word for word in train_words if not word.startswith("network.")]
    command = ["train", f"cache={cache}", f"run_dir={tmp_path}/run", *words, "max_steps=2", *DIFFUSERS]
    answer = ldm_train(*command)
    assert answer.code == 0, answer.err
    assert (tmp_path / "run/samples/step-00000002.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("schedule=rectified_flow",), "prediction=noise is undefined"),
        (("schedule.zero_terminal_snr=true",), "prediction=noise is undefined"),
        (("schedule.shift=0",), "schedule.shift=0 must be above 0"),
        (("pictures.steps=2000",), "steps=2000 must be from 1 to the schedule's 1000"),
        (("schedule.zero_terminal_snr=true", "prediction=flow", "spacing=karras"), "spacing=karras needs noise levels"),
        (("offset_noise=-1",), "offset_noise=-1 must be at least 0"),
        (("guidance.rescale=7",), "guidance.rescale=7 must be from 0"),
        (("guidance.interval=3",), "guidance.interval=3 "),
        (("guidance.interval=[5,1]",), "guidance.interval=[5"),
        (("guidance=autoguidance", "guidance.weak=nowhere"), "nowhere is not a run directory"),
        (
            ("sampler=heun", "sampler.over_ratio=true", "schedule=rectified_flow", "prediction=flow"),
            "sampler.over_ratio=true",
        ),
        (("weighting=learned", "weighting.base=min_snr"), "weighting.base=min_snr"),
        (("schedule=edm", "schedule.sigma_data=0.5", "prediction=velocity", "weighting=edm"), "weighting.sigma_data=1.0"),
        (("schedule.beta_start=-0.1",), "schedule.beta_start=-0.1"),
        (("spacing=karras", "spacing.sigma_min=0.0001"), "spacing.sigma_min=0.0001"),
        (("compile=fast",), "compile=fast is no backend of torch.compile; there are:"),
        (("guidance=3",), "a setting of it is guidance.NAME=VALUE"),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    words: tuple[str, ...], message: str, cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", *words)
    assert answer.code != 0
    assert message in answer.err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        (("schedule=cosine",), "where sampling starts"),
        (("schedule=rectified_flow", "prediction=flow", "weighting=min_snr"), "no weight to the end of this schedule"),
        (("lr_schedule.warmup_steps=8",), "lr_schedule.warmup_steps=8 is all of max_steps=2: optimizer.lr=0.001 is reached"),
        ((), None),
    ],
)
def test_what_will_draw_badly_is_warned_of(
    words: tuple[str, ...], warning: str | None, cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", "max_steps=2", "lr_schedule.warmup_steps=0", *words)
    assert answer.code == 0, answer.err
    warnings = [line for line in answer.out.splitlines() if line.startswith("warning:") and "are held out" not in line]
    assert [warning in line for line in warnings] == ([] if warning is None else [True])


def test_a_learned_weighting_is_stored_resumed_and_evaluated(
    cache: Path, ldm_train: Callable, train: Callable, power_cut: Callable, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(cache, whole, "weighting=learned").code == 0
    with power_cut(3):
        train(cache, cut, "weighting=learned")
    assert train(cache, cut, "weighting=learned").code == 0
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (whole, cut)]
    assert states[0]["weighting.coefficients"].abs().max() > 0
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    answer = ldm_train("evaluate", f"run_dir={whole}", f"out={tmp_path}/o.json", "steps=2", "device=cpu", "weights=raw")
    assert answer.code == 0, answer.err


def test_a_run_that_weighs_otherwise_can_start_from_anothers_weights(
    cache: Path, train: Callable, trained: Path, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", "max_steps=1", "weighting=learned", f"network.weights={trained}")
    assert answer.code == 0, answer.err


def test_perturbations_leave_the_validation_alone(cache: Path, train: Callable, tmp_path: Path) -> None:
    """With a rate of nothing both runs keep their weights: the training loss changes, the validation loss does not."""
    still = ("max_steps=2", "optimizer.lr=1e-12", "validation.every=2")
    runs = {name: tmp_path / name for name in ("plain", "offset")}
    assert train(cache, runs["plain"], *still).code == 0
    assert train(cache, runs["offset"], *still, "offset_noise=1", "input_perturbation=1").code == 0
    plain, offset = (lines(run) for run in runs.values())
    assert plain[0]["loss"] != offset[0]["loss"]
    assert plain[-1]["validation_loss"] == pytest.approx(offset[-1]["validation_loss"], rel=1e-6)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own
def test_a_compiled_network_is_the_same(cache: Path, train: Callable, trained: Path, tmp_path: Path) -> None:
    """As one graph, by a backend that leaves it as it is; compiled, it multiplies as PyTorch does, to rounding."""
    answer = train(cache, tmp_path / "run", "compile=eager")
    assert answer.code == 0, answer.err
    compiled, plain = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (tmp_path / "run", trained))
    assert compiled["state_dict"].keys() == plain["state_dict"].keys()
    losses = [[line["loss"] for line in lines(run)] for run in (tmp_path / "run", trained)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_positions_stay_on_the_cpu(cache: Path) -> None:
    """Draws read them: on a GPU that would wait for all that it still has to do."""
    data = CachedLatents(LatentCache(cache), batch_size=2)
    batch = data.transfer_batch_to_device(data.fetch(torch.arange(2)), torch.device("meta"), 0)
    assert batch.positions.device.type == "cpu"
    assert batch.moments.mean.device.type == "meta"
