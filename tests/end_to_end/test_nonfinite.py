"""Pictures that are not finite: no command writes them as black ones, and a run that draws some says so and goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_train.data.pictures.images import count_broken, draw_checkerboard, to_bytes, to_display_bytes
from ldm_train.training.autoencoder_module import AutoencoderTraining
from ldm_train.training.callbacks.picture_grids import GAP

HUGE = "guidance.scale=1e38"  # a number, but infinite once it is multiplied
DRAW = ("prompts=[a fox]", "steps=2", "device=cpu")


@pytest.fixture(scope="module")
def broken(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """A run of which one layer's weights have this value, its checkpoint being whole."""

    def make(value: float) -> Path:
        run_dir = Path(shutil.copytree(trained, tmp_path_factory.mktemp("broken") / "run"))
        last = run_dir / "checkpoints" / "last.ckpt"
        checkpoint = torch.load(last, weights_only=True)
        checkpoint["callbacks"]["EMA"]["average"]["network.conv_in.weight"].fill_(value)
        torch.save(checkpoint, last)
        return run_dir

    return make


@pytest.mark.parametrize("more", [(), ("interpolate=2", "to_seed=1"), ("x.seed=[0,1]",)], ids=["grid", "strip", "plot"])
def test_sample_names_the_prompt_and_writes_nothing(
    more: tuple[str, ...], trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    answer = ldm_train("sample", f"run_dir={trained}", f"out={tmp_path / 'out'}", *DRAW, HUGE, *more)
    assert answer.code == 1
    assert "a fox" in answer.err
    assert "seed 0" in answer.err
    assert "guidance.scale" in answer.err
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_the_weight_at_fault_is_named(value: float, broken: Callable, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("sample", f"run_dir={broken(value)}", f"out={tmp_path / 'out'}", *DRAW)
    assert answer.code == 1
    assert "conv_in.weight" in answer.err


def test_evaluate_ends_and_measures_nothing(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = (f"run_dir={trained}", f"out={tmp_path / 'a.json'}", "prompts=[a fox]", "features=null", "device=cpu", "steps=2")
    answer = ldm_train("evaluate", *words, "guidance=classifier_free", HUGE)
    assert answer.code == 1
    assert "a fox" in answer.err
    assert not list(tmp_path.rglob("*.png"))
    assert not (tmp_path / "a.json").exists()


def test_export_refuses_weights_that_are_not_finite(broken: Callable, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("export", f"run_dir={broken(float('inf'))}", f"out={tmp_path / 'weights.safetensors'}")
    assert answer.code == 1
    assert "conv_in.weight" in answer.err
    assert not list(tmp_path.iterdir())


def test_a_run_says_so_shows_it_and_goes_on(cache: Path, train: Callable, tmp_path: Path) -> None:
    answer = train(cache, tmp_path / "run", "max_steps=4", "pictures.every=2", "pictures.prompts=[a fox]", HUGE)
    assert answer.code == 0, answer.err
    reported = [line for line in answer.out.splitlines() if line.startswith("warning:") and "pictures of prompts" in line]
    assert [f"step {step}" in line for step, line in zip((2, 4), reported, strict=True)] == [True, True]
    shown = np.asarray(Image.open(tmp_path / "run/samples/step-00000004.png"))
    assert np.array_equal(shown[GAP:-GAP, GAP:-GAP], draw_checkerboard(16, 16).permute(1, 2, 0).numpy())
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("nonfinite_pictures/pictures_of_prompts") == 1] == [2, 4]


@pytest.mark.slow
def test_reconstructions_say_so_too(
    pictures: Path, ldm_train: Callable, autoencoder_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoencoderTraining, "reconstruct", lambda self, images: torch.full_like(images, torch.nan))
    words = (f"source.path={pictures}", f"run_dir={tmp_path / 'run'}", *autoencoder_settings, "max_steps=4")
    answer = ldm_train("train_autoencoder", *words)
    assert answer.code == 0, answer.err
    assert "reconstructions contain NaN" in answer.out


def test_a_picture_is_shown_as_it_is_or_not_at_all() -> None:
    images = torch.zeros(4, 3, 8, 8)
    images[1, 0, 0, 0], images[2, 2, 7, 7] = torch.nan, torch.inf
    shown = to_display_bytes(images)
    assert torch.equal(shown[[0, 3]], to_bytes(images[[0, 3]]))
    assert torch.equal(shown[[1, 2]], draw_checkerboard(8, 8).expand(2, -1, -1, -1))
    assert count_broken(shown) == 2
    with pytest.raises(ValueError, match="NaN or infinity"):
        to_bytes(images)
