"""Noise that workers or a thread draw ahead of its step is the noise that the step would draw."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ldm_train import draws
from ldm_train.autoencoders.autoencoder import NewKLAutoencoder
from ldm_train.data.batches.noise_thread import NoiseThread
from ldm_train.diffusion.drawn_noise import draw_step_noise
from ldm_train.diffusion.perturbations import Perturbations
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.types import LatentBatch, Moments
from ldm_train.util.step_noise import StepNoise

PERTURBED = ("offset_noise=0.1", "input_perturbation=0.1")


def weights(run_dir: Path) -> dict[str, Tensor]:
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def assert_equal(run_dir: Path, other: Path) -> None:
    """All that is logged at every step, the validation loss with it, and all weights, bit for bit."""
    logged = (run_dir / "metrics.jsonl").read_text()
    assert "validation_loss" in logged
    assert logged == (other / "metrics.jsonl").read_text()
    assert_close(weights(run_dir), weights(other), rtol=0, atol=0)


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The noise that each training batch brought to its step."""
    found: list[object] = []
    training_step = NoisePredictorTraining.training_step

    def recorded(self: NoisePredictorTraining, batch: LatentBatch, batch_idx: int) -> dict[str, Tensor]:
        found.append(batch.noise)
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(NoisePredictorTraining, "training_step", recorded)
    return found


@pytest.mark.parametrize(
    "words",
    [
        (),
        pytest.param(("micro_batch_size=2",), marks=pytest.mark.slow),
        pytest.param(PERTURBED, marks=pytest.mark.slow),
        pytest.param(("trainer.precision=bf16-true",), marks=pytest.mark.slow),
        pytest.param(("trainer.precision=64-true", *PERTURBED), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_thread_changes_nothing(
    words: tuple[str, ...], cache: Path, train: Callable, run_with: Callable, brought: list[object], tmp_path: Path
) -> None:
    without = run_with(*words)
    brought.clear()
    answer = train(cache, tmp_path / "run", "draw_ahead=true", *words)
    assert answer.code == 0, answer.err
    assert brought
    assert all(isinstance(noise, StepNoise) and noise.noise.dtype == torch.float32 for noise in brought)
    assert_equal(tmp_path / "run", without)


def test_a_cpu_draws_in_the_step(cache: Path, train: Callable, brought: list[object], tmp_path: Path) -> None:
    assert train(cache, tmp_path / "run", "max_steps=1").code == 0
    assert brought == [None]


@pytest.mark.slow
@pytest.mark.parametrize("words", [("workers=1",), ("workers=2", "micro_batch_size=2", *PERTURBED)], ids=" ".join)
def test_workers_change_nothing(
    words: tuple[str, ...], cache: Path, train: Callable, run_with: Callable, brought: list[object], tmp_path: Path
) -> None:
    without = run_with(*words[1:])
    brought.clear()
    assert train(cache, tmp_path / "run", "draw_ahead=true", *words).code == 0
    assert all(isinstance(noise, StepNoise) for noise in brought)
    assert_equal(tmp_path / "run", without)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("true", "false"), ("false", "true")])
def test_it_may_change_where_a_run_continues(
    before: str, after: str, cache: Path, train: Callable, trained: Path, power_cut: Callable, tmp_path: Path
) -> None:
    with power_cut(5):
        train(cache, tmp_path / "run", f"draw_ahead={before}")
    answer = train(cache, tmp_path / "run", f"draw_ahead={after}")
    assert answer.code == 0, answer.err
    assert_equal(tmp_path / "run", trained)


@pytest.fixture
def kl(tmp_path: Path) -> list[str]:
    """Words for an autoencoder with a posterior."""
    NewKLAutoencoder([8, 8], groups=4).initialise(0).save(tmp_path / "kl", shift=0.0, scale=3.0)
    return ["autoencoder=pretrained", f"autoencoder.weights={tmp_path / 'kl'}"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_latents_with_a_posterior(
    workers: int, kl: list[str], pictures: Path, encode: Callable, train: Callable, brought: list[object], tmp_path: Path
) -> None:
    encoded = encode(pictures, tmp_path / "cache", *kl, "scale_check=false")
    assert encoded.code == 0, encoded.err
    for name, more in (("without", ()), ("run", ("draw_ahead=true", f"workers={workers}"))):
        brought.clear()
        answer = train(tmp_path / "cache", tmp_path / name, *PERTURBED, *more)
        assert answer.code == 0, answer.err
    assert all(isinstance(noise, StepNoise) and noise.posterior is not None for noise in brought)
    assert_equal(tmp_path / "run", tmp_path / "without")


@pytest.mark.slow
def test_two_processes_draw_what_they_would(cache: Path, train_words: list[str], tmp_path: Path) -> None:
    several = ["trainer.devices=2", "trainer.strategy=ddp", "pictures.prompts=[]"]
    more = {"without": [], "run": ["draw_ahead=true"], "workers": ["draw_ahead=true", "workers=1", "micro_batch_size=1"]}
    base = {"workers": ["micro_batch_size=1"]}
    jobs = [
        {"words": ["train", f"cache={cache}", f"run_dir={tmp_path / name}", *train_words, *several, *words]}
        for name, words in [*more.items(), *((f"{name} without", words) for name, words in base.items())]
    ]
    driver = Path(__file__).with_name("driver.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", driver, json.dumps(jobs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert_equal(tmp_path / "run", tmp_path / "without")
    assert_equal(tmp_path / "workers", tmp_path / "workers without")


@pytest.mark.parametrize("perturbations", [Perturbations(), Perturbations(offset_noise=0.1, input_perturbation=0.2)])
@pytest.mark.parametrize("log_variance", [None, torch.zeros(3, 4, 2, 2)], ids=["mean", "posterior"])
def test_noise_is_that_of_its_streams(log_variance: Tensor | None, perturbations: Perturbations) -> None:
    """A thread draws the same, the posterior's only for latents that have one."""
    positions, moments = torch.tensor([5, 2**40, 7]), Moments(torch.zeros(3, 4, 2, 2), log_variance)
    drawn = NoiseThread(partial(draw_step_noise, seed=3, perturbations=perturbations))(positions, moments).result()
    noise, input_noise = perturbations(draws.normal(3, "noise", positions, (4, 2, 2)), positions, seed=3)
    assert torch.equal(drawn.noise, noise)
    assert torch.equal(drawn.noise if drawn.input_noise is None else drawn.input_noise, input_noise)
    assert (drawn.input_noise is None) == (perturbations == Perturbations()), "nothing is copied twice"
    if log_variance is None:
        assert drawn.posterior is None
    else:
        assert drawn.posterior is not None
        assert torch.equal(drawn.posterior, draws.normal(3, "posterior", positions, (4, 2, 2)))


def test_an_error_of_the_thread_ends_the_step() -> None:
    def fail(positions: Tensor, moments: Moments) -> StepNoise:
        raise ValueError("no noise")

    with pytest.raises(ValueError, match="no noise"):
        NoiseThread(fail)(torch.arange(2), Moments(torch.zeros(2, 1), None)).result()
