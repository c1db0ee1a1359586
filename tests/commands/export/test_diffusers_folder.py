"""A pipeline's folder draws the same picture by diffusers itself, without anything of ours."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.util.ownership import EXPORT
from tests.commands.export.shaped import SHAPE, opened, ours, same_picture, theirs


def test_a_pipeline_draws_the_same_picture(run_dir: Path, export: Callable) -> None:
    same_picture(ours(run_dir), theirs(opened(export(run_dir, "layout=diffusers")), run_dir))


@pytest.mark.slow
def test_a_pipeline_needs_nothing_of_ours(run_dir: Path, export: Callable) -> None:
    out = export(run_dir, "layout=diffusers", "dtype=float16")
    assert {t.dtype for t in load_file(out / "unet/diffusion_pytorch_model.safetensors").values()} == {torch.float16}
    code = f"""
import sys
class Nothing:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("ldm_train", "open_clip"): raise ImportError(name)
sys.meta_path.insert(0, Nothing())
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained({str(out)!r})
pipeline("a circle", num_inference_steps=1).images[0].save({str(out / "picture.png")!r})
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=out, capture_output=True)
    assert (out / "picture.png").is_file()


def test_velocity_on_a_schedule_of_its_own(run_dir: Path, train: Callable, export: Callable, tmp_path: Path) -> None:
    cache = read_trained(run_dir).cache
    words = ("prediction=velocity", "schedule=sigmoid", "schedule.zero_terminal_snr=true", "optimizer.lr=0.02")
    answer = train(cache, tmp_path / "run", *SHAPE, "scale_check=false", *words)
    assert answer.code == 0, answer.err
    out = export(tmp_path / "run", "layout=diffusers")
    scheduler = json.loads((out / "scheduler/scheduler_config.json").read_text())
    assert (scheduler["prediction_type"], len(scheduler["trained_betas"])) == ("v_prediction", 1000)
    same_picture(ours(tmp_path / "run"), theirs(opened(out), tmp_path / "run"))


def test_diffusers_own_network_leaves_as_it_is(run_dir: Path, ldm_train: Callable, export: Callable, tmp_path: Path) -> None:
    words = ("network=diffusers_unet", "network.block_out_channels=[32,64]", "network.layers_per_block=1")
    blocks = (
        "network.down_block_types=[CrossAttnDownBlock2D,DownBlock2D]",
        "network.up_block_types=[UpBlock2D,CrossAttnUpBlock2D]",
        "network.attention_head_dim=4",
    )
    short = ("trainer.accelerator=cpu", "threads=1", "batch_size=4", "max_steps=2", "pictures.every=9", "validation.every=9")
    reported = [f"cache={read_trained(run_dir).cache}", f"run_dir={tmp_path}/run", "scale_check=false", "metrics.every=null"]
    answer = ldm_train("train", *reported, *words, *blocks, *short, "optimizer.lr=0.02", "lr_schedule.warmup_steps=1")
    assert answer.code == 0, answer.err
    same_picture(ours(tmp_path / "run"), theirs(opened(export(tmp_path / "run", "layout=diffusers")), tmp_path / "run"))


def test_an_exported_pipeline_is_measured(run_1: Path, pictures: Path, ldm_train: Callable, export: Callable) -> None:
    out = export(run_1, "layout=diffusers")
    words = [f"pipeline={out}", f"real={pictures}", "samples=4", "steps=1", "resamples=0", "device=cpu"]
    answer = ldm_train("evaluate", *words, f"out={out.parent}/o.json")
    assert answer.code == 0, answer.err
    assert json.loads((out.parent / "o.json").read_text())["pipeline"] == "StableDiffusionPipeline"


def test_of_another_network_the_other_parts_leave(
    trained: Path, run_dir: Path, train: Callable, export: Callable, tmp_path: Path
) -> None:
    answer = train(read_trained(run_dir).cache, tmp_path / "run", "scale_check=false", "max_steps=1")
    assert answer.code == 0, answer.err
    out = export(tmp_path / "run", "layout=diffusers")
    assert {path.name for path in out.iterdir()} == {
        *("README.md", EXPORT.mark, "scheduler", "text_encoder", "tokenizer", "vae"),
    }
    card = (out / "README.md").read_text()
    for words in ("network.patch_size=2", "network.extra_up_block=false", "network.expansion=1", "network.channels=[16"):
        assert f"not supported by diffusers' classes: {words}" in card or words in card
    assert 'AutoencoderKL.from_pretrained("out", subfolder="vae")' in card
