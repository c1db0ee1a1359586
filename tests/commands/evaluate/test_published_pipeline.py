"""Pipelines in diffusers' layout, measured as a run is."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from PIL import Image

from ldm_train.commands.evaluate.drawn_pictures import locate_pictures
from ldm_train.commands.evaluate.published_pipeline import build_pipeline_painter, open_pipeline, resolve_guidance_scale


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny unconditional pipeline."""
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet2DModel(
            sample_size=16,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            layers_per_block=1,
        )
    DDIMPipeline(network, DDIMScheduler()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("real", ["a folder", "a cache"])
def test_a_pipeline_is_measured_as_a_run_is(
    real: str, saved: Path, pictures: Path, cache: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    other = f"real={pictures}" if real == "a folder" else f"cache={cache}"
    words = [f"pipeline={saved}", other, "samples=5", "steps=2", "resamples=0", "device=cpu", "batch_size=2"]
    answer = ldm_train("evaluate", *words, f"out={tmp_path}/o.json")
    assert answer.code == 0, answer.err
    numbers = json.loads((tmp_path / "o.json").read_text())
    assert (numbers["pipeline"], numbers["sampler"], numbers["steps"]) == ("DDIMPipeline", "DDIMScheduler", 2)
    assert (numbers["pictures"], numbers["real_pictures"]) == (5, 12 if real == "a folder" else 3)
    assert numbers["guidance"] == {"scale": 1.0}
    assert "kid_efficientnet_lite0" in numbers
    [drawn] = [
        np.asarray(Image.open(file)).astype(int) for file in locate_pictures(tmp_path / "o.json").glob("*/000004.png")
    ]
    paint = build_pipeline_painter(open_pipeline(str(saved), torch.device("cpu")), steps=2, seed=0, scale=None)
    alone = paint(["x"], torch.tensor([4]), {})
    assert abs((alone[0].permute(1, 2, 0).numpy() + 1) * 127.5 - drawn).max() <= 1, "its noise is by its number"


def test_guidance_of_a_pipeline_without_is_refused(saved: Path, pictures: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = [f"pipeline={saved}", f"real={pictures}", "guidance=classifier_free", "guidance.scale=3", "device=cpu"]
    answer = ldm_train("evaluate", *words, f"out={tmp_path}/o.json")
    assert answer.code == 1
    for name in ("guidance.scale=3", "DDIMPipeline", "guidance_scale"):
        assert name in answer.err


def test_a_pipeline_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="pipeline="):
        open_pipeline(str(tmp_path), torch.device("cpu"))


class Recording:
    """A pipeline of text that gives back what it was asked."""

    def __call__(
        self,
        prompt: list[str],
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        generator: list[torch.Generator] | None = None,
        output_type: str = "pil",
    ) -> SimpleNamespace:
        assert generator is not None
        assert output_type == "np"
        noise = [torch.rand(3, generator=own).numpy() for own in generator]
        images = np.stack([np.full((4, 4, 3), n) for n in noise]) * 0 + guidance_scale / 10
        self.asked = (prompt, num_inference_steps, np.stack(noise))
        return SimpleNamespace(images=images)


def test_prompts_steps_guidance_and_keyed_noise_arrive() -> None:
    pipeline = Recording()
    paint = build_pipeline_painter(pipeline, steps=7, seed=1, scale=5.0)  # type: ignore[arg-type]
    images = paint(["a", "b"], torch.tensor([3, 4]), {})
    together = pipeline.asked[2]
    torch.testing.assert_close(images, torch.zeros(2, 3, 4, 4, dtype=images.dtype), atol=1e-6, rtol=0)
    assert pipeline.asked[:2] == (["a", "b"], 7)
    paint(["b"], torch.tensor([4]), {})
    assert (pipeline.asked[2][0] == together[1]).all()
    assert resolve_guidance_scale(pipeline, None) == 7.5  # type: ignore[arg-type]
    assert resolve_guidance_scale(pipeline, 2.0) == 2.0  # type: ignore[arg-type]
