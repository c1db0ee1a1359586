"""Adapters by themselves and merged, in diffusers' pipeline."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.weights.tensor_files import read_metadata
from tests.commands.export.shaped import opened, ours, same_picture, theirs


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_lora_draws_the_same_picture_in_a_pipeline(form: str, adapter: Path, run_1: Path, export: Callable) -> None:
    pipeline = opened(export(run_1, "layout=diffusers", out="base"))
    out = export(adapter, "layout=lora", f"lora_format={form}", out="lora")
    purpose = read_metadata(next(out.glob("*.safetensors")))["trained_for"]
    assert purpose["prediction"] == "noise", "the file by itself says what it was trained for"
    plain = theirs(pipeline, run_1)
    pipeline.load_lora_weights(str(out), weight_name=None if form == "diffusers" else "lora.safetensors")
    drawn = theirs(pipeline, run_1)
    same_picture(ours(adapter), drawn)
    assert (drawn - plain).abs().max() * 127.5 > 5
    same_picture(ours(run_1, next(out.glob("*.safetensors"))), drawn)


def test_a_pipeline_of_a_run_with_adapters_has_them_merged(adapter: Path, export: Callable) -> None:
    same_picture(ours(adapter), theirs(opened(export(adapter, "layout=diffusers")), adapter))


def test_an_adapter_of_another_network_is_refused_by_its_settings(
    trained: Path, run_with: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    run = run_with(f"network.weights={trained}", "adapter=lora", "max_steps=1")
    answer = ldm_train("export", f"run_dir={run}", f"out={tmp_path}/out", "layout=lora")
    assert answer.code == 1
    assert "which cannot hold this one: network.patch_size=2" in answer.err
    assert list(tmp_path.iterdir()) == []
