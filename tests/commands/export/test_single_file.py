"""A run as one file of latent-diffusion's layout: its names, and diffusers' own reader."""

from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tests.commands.export.shaped import ours, same_picture, theirs


def test_a_single_file_has_the_names_of_its_family(run_dir: Path, run_1: Path, export: Callable) -> None:
    one = load_file(export(run_1, "layout=single_file", out="one") / "one.safetensors")
    two = load_file(export(run_dir, "layout=single_file", out="two") / "two.safetensors")
    projection = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
    assert (one[projection].ndim, two[projection].ndim) == (4, 2)
    assert "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight" in one
    assert "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight" in two
    assert "first_stage_model.decoder.conv_in.weight" in one


@pytest.mark.parametrize("shape", ["1.x", "2.x"])
def test_diffusers_reads_it_and_draws_the_same_picture(shape: str, run_dir: Path, run_1: Path, export: Callable) -> None:
    run = run_1 if shape == "1.x" else run_dir
    file = export(run, "layout=single_file", out="one") / "one.safetensors"
    config = export(run, "layout=diffusers", out="config")
    for weights in config.rglob("*.safetensors"):
        weights.unlink()
    pipeline = StableDiffusionPipeline.from_single_file(str(file), config=str(config), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    same_picture(ours(run), theirs(pipeline, run))
